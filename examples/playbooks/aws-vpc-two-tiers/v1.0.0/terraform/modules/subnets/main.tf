# One subnet a zone; public where a gateway is given.
variable "vpc_id" {
  type = string
}

variable "cidr_block" {
  type = string
}

variable "zones" {
  type = list(string)
}

variable "gateway_id" {
  type    = string
  default = null
}

resource "aws_subnet" "this" {
  for_each          = { for index, zone in var.zones : zone => index }
  vpc_id            = var.vpc_id
  availability_zone = each.key
  cidr_block        = cidrsubnet(var.cidr_block, 4, each.value)
}

resource "aws_route_table" "this" {
  vpc_id = var.vpc_id
}

resource "aws_route" "out" {
  count                  = var.gateway_id == null ? 0 : 1
  route_table_id         = aws_route_table.this.id
  destination_cidr_block = "0.0.0.0/0"
  gateway_id             = var.gateway_id
}

resource "aws_route_table_association" "this" {
  for_each       = aws_subnet.this
  subnet_id      = each.value.id
  route_table_id = aws_route_table.this.id
}

output "ids" {
  value = [for subnet in aws_subnet.this : subnet.id]
}
