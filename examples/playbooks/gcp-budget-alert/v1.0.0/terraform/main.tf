terraform {
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 5.0"
    }
  }
}

variable "billing_account" {
  description = "Billing account id, like 012345-567890-ABCDEF."
  type        = string
}

variable "project" {
  description = "Project that the budget watches and that holds the notification channel."
  type        = string
}

variable "monthly_amount" {
  type    = number
  default = 500
}

variable "currency" {
  description = "Must be the billing account's own currency."
  type        = string
  default     = "USD"
}

variable "alert_email" {
  type = string
}

data "google_project" "this" {
  project_id = var.project
}

resource "google_monitoring_notification_channel" "email" {
  project      = var.project
  display_name = "Budget alerts"
  type         = "email"
  labels = {
    email_address = var.alert_email
  }
}

resource "google_billing_budget" "monthly" {
  billing_account = var.billing_account
  display_name    = "Monthly cost of ${var.project}"

  budget_filter {
    projects        = ["projects/${data.google_project.this.number}"]
    calendar_period = "MONTH"
  }

  amount {
    specified_amount {
      currency_code = var.currency
      units         = tostring(var.monthly_amount)
    }
  }

  dynamic "threshold_rules" {
    for_each = [0.5, 0.8, 1.0]
    content {
      threshold_percent = threshold_rules.value
    }
  }

  threshold_rules {
    threshold_percent = 1.0
    spend_basis       = "FORECASTED_SPEND"
  }

  all_updates_rule {
    monitoring_notification_channels = [google_monitoring_notification_channel.email.id]
  }
}
