output "vpc_id" {
  value = aws_vpc.this.id
}

output "private_subnet_ids" {
  value = module.private.ids
}
