WITH decoded AS (
  SELECT message_id, publish_time, subscription_name,
    JSON_VALUE(SAFE.PARSE_JSON(attributes), '$.bucketId') AS bucket,
    JSON_VALUE(SAFE.PARSE_JSON(attributes), '$.objectId') AS object,
    JSON_VALUE(SAFE.PARSE_JSON(attributes), '$.objectUri') AS given_uri,
    JSON_VALUE(SAFE.PARSE_JSON(attributes), '$.objectGeneration') AS generation_text,
    JSON_VALUE(SAFE.PARSE_JSON(attributes), '$.eventType') AS event_type,
    JSON_VALUE(SAFE.PARSE_JSON(attributes), '$.dicomlakeRevision') AS revision_text,
    JSON_VALUE(SAFE.PARSE_JSON(attributes), '$.CloudPubSubDeadLetterSourceDeliveryCount') AS count_text,
    JSON_VALUE(SAFE.PARSE_JSON(attributes), '$.dicomlakeCode') AS code,
    JSON_VALUE(SAFE.PARSE_JSON(attributes), '$.dicomlakeReason') AS reason
  FROM `${dataset}.dead_letter`),
event AS (
  SELECT message_id, publish_time, subscription_name, bucket, object, event_type, code, reason,
    COALESCE(given_uri, 'gs://' || bucket || '/' || object) AS object_uri,
    CASE WHEN CAST(SAFE_CAST(generation_text AS INT64) AS STRING) = generation_text THEN SAFE_CAST(generation_text AS INT64) END AS generation,
    CASE WHEN CAST(SAFE_CAST(revision_text AS INT64) AS STRING) = revision_text THEN SAFE_CAST(revision_text AS INT64) END AS revision,
    CASE WHEN CAST(SAFE_CAST(count_text AS INT64) AS STRING) = count_text THEN SAFE_CAST(count_text AS INT64) END AS delivery_count
  FROM decoded),
keyed AS (
  SELECT *, CASE WHEN object_uri IS NULL OR generation IS NULL OR event_type IS NULL
    THEN message_id END AS lone_id
  FROM event),
letter AS (
  SELECT *,
    COUNT(*) OVER (PARTITION BY object_uri, generation, event_type, lone_id) AS letters,
    ROW_NUMBER() OVER (PARTITION BY object_uri, generation, event_type, lone_id
      ORDER BY publish_time DESC NULLS LAST, message_id DESC) AS place
  FROM keyed),
failure AS (
  SELECT object_uri, generation, event_type, code, message, ROW_NUMBER() OVER (
    PARTITION BY object_uri, generation, event_type
    ORDER BY delivery_attempt DESC NULLS LAST, failed_at DESC) AS place
  FROM `${dataset}.failures`),
seen AS (
  SELECT object_uri, MAX(generation) AS last_generation,
    MAX(CASE WHEN event_type IN ('OBJECT_DELETE', 'OBJECT_ARCHIVE') THEN generation END) AS removed_generation
  FROM `${dataset}.instances` WHERE object_uri IN (SELECT object_uri FROM event) GROUP BY object_uri)
SELECT l.message_id, l.publish_time, l.bucket, l.object, l.object_uri, l.generation, l.event_type,
  l.delivery_count, COALESCE(l.code, f.code) AS code, COALESCE(l.reason, f.message) AS reason,
  l.letters, l.subscription_name
FROM letter AS l LEFT JOIN failure AS f
  ON f.place = 1 AND f.object_uri = l.object_uri AND f.generation = l.generation
  AND f.event_type = l.event_type
LEFT JOIN seen AS s ON s.object_uri = l.object_uri
WHERE l.place = 1
AND ((COALESCE(s.last_generation <= l.generation, TRUE)
    AND COALESCE(s.removed_generation < l.generation, TRUE))
  OR (COALESCE(l.code, f.code) = 'announce_unavailable' AND l.event_type IN ('OBJECT_DELETE', 'OBJECT_ARCHIVE')))
AND NOT EXISTS (
  SELECT 1 FROM `${dataset}.instances` AS i WHERE i.object_uri = l.object_uri AND i.generation = l.generation
  AND i.event_type = l.event_type AND i.member IS NULL
  AND COALESCE(i.revision, 0) >= COALESCE(l.revision, 0)
  AND COALESCE(l.code, f.code, '') <> 'announce_unavailable')
