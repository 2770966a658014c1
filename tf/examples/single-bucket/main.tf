# One bucket for everything: objects land under INPUT_FOLDER/, previews go to OUTPUT_IMAGE_FOLDER/images/, DICOM
# JSON to OUTPUT_JSON_FOLDER/metadata/.
#
# What the service writes does not wake it, thrice: the notification is for names under INPUT_FOLDER/ only; the
# service ignores names under its own prefixes; and it may write nowhere else (conditions on its grants).

terraform {
  required_version = ">= 1.9"
}

variable "project_id" {
  description = "Project to deploy to."
  type        = string
}

variable "image" {
  description = "Container image to run."
  type        = string
}

variable "bucket" {
  description = "Name of the bucket to create."
  type        = string
  default     = null
}

locals {
  bucket = coalesce(var.bucket, "${var.project_id}-dicomlake")
}

module "dicomlake" {
  source = "../.."

  project_id = var.project_id
  image      = var.image

  landing = {
    bucket   = local.bucket
    prefixes = ["INPUT_FOLDER/"]
  }

  artifacts = {
    bucket   = local.bucket
    images   = "OUTPUT_IMAGE_FOLDER/images/"
    metadata = "OUTPUT_JSON_FOLDER/metadata/"
  }
}

output "next_steps" {
  description = "What to do now."
  value       = module.dicomlake.next_steps
}
