"""Reports resources that lack a tag."""

import argparse

import requests

parser = argparse.ArgumentParser()
parser.add_argument("--tag", required=True, help="The tag that is wanted.")
parser.add_argument("--format", choices=["text", "json"], default="text")
parser.add_argument("--limit", type=int, default=100)
args = parser.parse_args()
print(args.tag, requests.__name__)
