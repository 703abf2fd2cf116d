terraform {
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

variable "monthly_limit_usd" {
  type    = number
  default = 500
}

variable "alert_emails" {
  type = list(string)

  validation {
    condition     = length(var.alert_emails) >= 1 && length(var.alert_emails) <= 10
    error_message = "AWS Budgets takes one to ten addresses for an alert."
  }
}

variable "alerts" {
  description = "Notification type to threshold in percent."
  type        = map(number)
  default = {
    ACTUAL     = 80
    FORECASTED = 100
  }
}

resource "aws_budgets_budget" "monthly" {
  name         = "monthly-cost"
  budget_type  = "COST"
  limit_amount = tostring(var.monthly_limit_usd)
  limit_unit   = "USD"
  time_unit    = "MONTHLY"

  dynamic "notification" {
    for_each = var.alerts
    content {
      comparison_operator        = "GREATER_THAN"
      notification_type          = notification.key
      threshold                  = notification.value
      threshold_type             = "PERCENTAGE"
      subscriber_email_addresses = var.alert_emails
    }
  }
}

output "budget_arn" {
  value = aws_budgets_budget.monthly.arn
}
