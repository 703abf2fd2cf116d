# Rejected traffic into a log group that forgets after 30 days.
variable "vpc_id" {
  type = string
}

resource "aws_cloudwatch_log_group" "this" {
  name              = "/vpc/${var.vpc_id}/rejected"
  retention_in_days = 30
}

resource "aws_iam_role" "this" {
  name_prefix = "flow-logs-"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "vpc-flow-logs.amazonaws.com" }
    }]
  })
}

resource "aws_iam_role_policy" "this" {
  role = aws_iam_role.this.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect   = "Allow"
      Action   = ["logs:CreateLogStream", "logs:PutLogEvents", "logs:DescribeLogStreams"]
      Resource = "${aws_cloudwatch_log_group.this.arn}:*"
    }]
  })
}

resource "aws_flow_log" "this" {
  vpc_id          = var.vpc_id
  traffic_type    = "REJECT"
  log_destination = aws_cloudwatch_log_group.this.arn
  iam_role_arn    = aws_iam_role.this.arn
}
