variable "region" {
  type        = string
  description = "AWS region to work in."
}

variable "cidr_block" {
  type        = string
  description = "Addresses of the VPC, a /16."
  default     = "10.20.0.0/16"
}

variable "zones" {
  type        = list(string)
  description = "Availability zones."
}
