terraform {
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 5.0"
    }
  }
}

variable "project" {
  type = string
}

variable "region" {
  type    = string
  default = "europe-west1"
}

variable "disks" {
  description = "Zonal disks to protect: name to zone."
  type        = map(string)
}

variable "start_time_utc" {
  description = "Full hour at which the daily snapshot starts."
  type        = string
  default     = "03:00"

  validation {
    condition     = can(regex("^([01][0-9]|2[0-3]):00$", var.start_time_utc))
    error_message = "start_time_utc must be a full hour like 03:00."
  }
}

variable "retention_days" {
  type    = number
  default = 14
}

resource "google_compute_resource_policy" "daily" {
  name    = "daily-snapshots"
  project = var.project
  region  = var.region

  snapshot_schedule_policy {
    schedule {
      daily_schedule {
        days_in_cycle = 1
        start_time    = var.start_time_utc
      }
    }

    retention_policy {
      max_retention_days    = var.retention_days
      on_source_disk_delete = "KEEP_AUTO_SNAPSHOTS"
    }

    snapshot_properties {
      labels = {
        managed-by = "terraform"
      }
      storage_locations = [var.region]
    }
  }
}

resource "google_compute_disk_resource_policy_attachment" "daily" {
  for_each = var.disks
  project  = var.project
  name     = google_compute_resource_policy.daily.name
  disk     = each.key
  zone     = each.value
}

output "policy" {
  value = google_compute_resource_policy.daily.id
}
