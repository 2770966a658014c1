locals {
  ingest_name      = google_cloud_run_v2_service.service["ingest"].name
  dead_letter_name = google_pubsub_topic.topic["dead-letter"].name

  subscription_ids = {
    push        = "\"${google_pubsub_subscription.push["events"].name}\""
    pushes      = "one_of(${join(", ", [for one in google_pubsub_subscription.push : "\"${one.name}\""])})"
    forward     = "\"${var.name}-forward-push\""
    dead_letter = "\"${google_pubsub_subscription.dead_letter.name}\""
    eventarc    = "starts_with(\"eventarc-${lower(local.bucket_location)}-${var.name}-\")"
    all         = "monitoring.regex.full_match(\"(eventarc-.*-)?${var.name}-.*\")"
  }

  # Where a metric is looked at.
  places = merge(
    {
      service           = "resource.type = \"cloud_run_revision\" AND resource.labels.service_name = \"${local.ingest_name}\""
      dead_letter_topic = "resource.type = \"pubsub_topic\" AND resource.labels.topic_id = \"${local.dead_letter_name}\""
    },
    {
      for key, id in local.subscription_ids :
      key => "resource.type = \"pubsub_subscription\" AND resource.labels.subscription_id = ${id}"
      if(key != "eventarc" || var.trigger == "eventarc") && (key != "forward" || local.forwards)
    },
  )
  sources = [for key in ["push", "eventarc", "forward"] : key if contains(keys(local.places), key)]

  metrics = {
    cpu       = { type = "run.googleapis.com/container/cpu/utilizations", align = "PERCENTILE_99", reduce = "MAX" }
    forwarded = { type = "pubsub.googleapis.com/subscription/dead_letter_message_count", align = "DELTA", reduce = "SUM" }
    instances = { type = "run.googleapis.com/container/instance_count", align = "MAX", reduce = "SUM" }
    latency   = { type = "run.googleapis.com/request_latencies", align = "PERCENTILE_95", reduce = "MAX" }
    memory    = { type = "run.googleapis.com/container/memory/utilizations", align = "PERCENTILE_99", reduce = "MAX" }
    published = { type = "pubsub.googleapis.com/topic/send_message_operation_count", align = "DELTA", reduce = "SUM" }
    requests  = { type = "run.googleapis.com/request_count", align = "RATE", reduce = "SUM" }
    unacked   = { type = "pubsub.googleapis.com/subscription/oldest_unacked_message_age", align = "MAX", reduce = "MAX" }
    waiting   = { type = "pubsub.googleapis.com/subscription/num_undelivered_messages", align = "MAX", reduce = "MAX" }
  }

  # A condition is true when the metric at the place is above; with `only`, the share of the series it selects.
  alerts = {
    dead-letters = {
      title    = "objects were given up"
      severity = "ERROR"
      text     = "The view `${local.dataset_id}.dead_letters` says which and why. Mend it, then `dicomlake dlq requeue`."
      # The service publishes those it gives up itself; Pub/Sub forwards the others.
      conditions = concat(
        [{ metric = "published", place = "dead_letter_topic", above = 0, duration = "0s", only = null }],
        [for key in local.sources : { metric = "forwarded", place = key == "push" ? "pushes" : key, above = 0, duration = "0s", only = null }],
      )
    }
    backlog = {
      title    = "messages wait too long"
      severity = "WARNING"
      text     = "Requests fail or are too few at once; a receiver of pictures is down; or the table of dead letters cannot be written."
      # What waits in the lane of `backfill` may be hours old.
      conditions = [
        for key in concat(local.sources, ["dead_letter"]) :
        { metric = "unacked", place = key, above = var.alerts.oldest_unacked_s, duration = "300s", only = null }
      ]
    }
    server-errors = {
      title    = "requests fail"
      severity = "ERROR"
      text     = "Storage, BigQuery or Pub/Sub fail, or we do. Nothing is lost yet: messages are tried again."
      conditions = [{
        metric = "requests", place = "service", above = var.alerts.server_error_rate, duration = "300s"
        only   = "metric.labels.response_code_class = \"5xx\""
      }]
    }
  }

  charts = [
    { title = "Requests per second", metric = "requests", place = "service", by = "metric.label.response_code" },
    { title = "Dead letters", metric = "published", place = "dead_letter_topic", by = null },
    { title = "Oldest message, s", metric = "unacked", place = "all", by = "resource.label.subscription_id" },
    { title = "Messages waiting", metric = "waiting", place = "all", by = "resource.label.subscription_id" },
    { title = "Latency, 95 % of requests, ms", metric = "latency", place = "service", by = null },
    { title = "Instances", metric = "instances", place = "service", by = "metric.label.state" },
    { title = "Memory, share of the limit", metric = "memory", place = "service", by = null },
    { title = "CPU, share of the limit", metric = "cpu", place = "service", by = null },
  ]
}

resource "google_monitoring_notification_channel" "email" {
  for_each = toset(var.alerts.emails)

  project      = var.project_id
  display_name = "${var.name} ${each.key}"
  type         = "email"
  labels       = { email_address = each.key }

  depends_on = [google_project_service.api]
}

resource "google_monitoring_alert_policy" "alert" {
  for_each = local.alerts

  project      = var.project_id
  display_name = "${var.name}: ${each.value.title}"
  severity     = each.value.severity
  combiner     = "OR"
  user_labels  = var.labels
  notification_channels = concat(
    var.alerts.channels, [for channel in google_monitoring_notification_channel.email : channel.name]
  )

  dynamic "conditions" {
    for_each = each.value.conditions
    iterator = one
    content {
      display_name = "${one.value.metric} of ${one.value.place}"
      condition_threshold {
        filter = join(" AND ", compact([
          "metric.type = \"${local.metrics[one.value.metric].type}\"", local.places[one.value.place], one.value.only
        ]))
        denominator_filter = one.value.only == null ? null : join(" AND ", [
          "metric.type = \"${local.metrics[one.value.metric].type}\"", local.places[one.value.place]
        ])
        comparison      = "COMPARISON_GT"
        threshold_value = one.value.above
        duration        = one.value.duration

        aggregations {
          alignment_period     = "300s"
          per_series_aligner   = "ALIGN_${local.metrics[one.value.metric].align}"
          cross_series_reducer = "REDUCE_${local.metrics[one.value.metric].reduce}"
        }

        dynamic "denominator_aggregations" {
          for_each = one.value.only[*]
          content {
            alignment_period     = "300s"
            per_series_aligner   = "ALIGN_${local.metrics[one.value.metric].align}"
            cross_series_reducer = "REDUCE_${local.metrics[one.value.metric].reduce}"
          }
        }
      }
    }
  }

  documentation {
    content   = "${each.value.text} More in docs/runbook.md."
    mime_type = "text/markdown"
  }

  alert_strategy {
    auto_close = "86400s"
  }

  depends_on = [google_project_service.api]
}

resource "google_monitoring_dashboard" "flow" {
  project = var.project_id
  dashboard_json = jsonencode({
    displayName = var.name
    gridLayout = {
      columns = "2"
      widgets = [
        for chart in local.charts : {
          title = chart.title
          xyChart = {
            dataSets = [{
              plotType = "LINE"
              timeSeriesQuery = {
                timeSeriesFilter = {
                  filter = "metric.type = \"${local.metrics[chart.metric].type}\" AND ${local.places[chart.place]}"
                  aggregation = merge(
                    {
                      alignmentPeriod    = "60s"
                      perSeriesAligner   = "ALIGN_${local.metrics[chart.metric].align}"
                      crossSeriesReducer = "REDUCE_${local.metrics[chart.metric].reduce}"
                    },
                    { for by in chart.by[*] : "groupByFields" => [by] },
                  )
                }
              }
            }]
          }
        }
      ]
    }
  })

  depends_on = [google_project_service.api]
}
