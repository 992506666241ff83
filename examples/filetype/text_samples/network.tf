terraform {
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.0"
    }
  }
}

variable "region" {
  type    = string
  default = "eu-west-3"
}

provider "aws" {
  region = var.region
}

resource "aws_vpc" "tides" {
  cidr_block = "10.0.0.0/16"
  tags = {
    Name = "tides-${var.region}"
  }
}

resource "aws_subnet" "public" {
  count      = 2
  vpc_id     = aws_vpc.tides.id
  cidr_block = cidrsubnet(aws_vpc.tides.cidr_block, 8, count.index)
}

output "vpc_id" {
  value = aws_vpc.tides.id
}
