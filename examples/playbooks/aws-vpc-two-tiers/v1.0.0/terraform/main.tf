# VPC with a public and a private tier; what is in a tier stands in modules/.
terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

provider "aws" {
  region = var.region
}

resource "aws_vpc" "this" {
  cidr_block           = var.cidr_block
  enable_dns_hostnames = true
  tags                 = { Name = "two-tiers" }
}

resource "aws_internet_gateway" "this" {
  vpc_id = aws_vpc.this.id
}

module "public" {
  source     = "./modules/subnets"
  vpc_id     = aws_vpc.this.id
  cidr_block = cidrsubnet(var.cidr_block, 1, 0)
  zones      = var.zones
  gateway_id = aws_internet_gateway.this.id
}

module "private" {
  source     = "./modules/subnets"
  vpc_id     = aws_vpc.this.id
  cidr_block = cidrsubnet(var.cidr_block, 1, 1)
  zones      = var.zones
}

module "flow_logs" {
  source = "./modules/flow-logs"
  vpc_id = aws_vpc.this.id
}
