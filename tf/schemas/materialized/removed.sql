SELECT object_uri, MAX(generation) AS generation FROM `${dataset}.instances`
WHERE event_type IN ('OBJECT_DELETE', 'OBJECT_ARCHIVE') GROUP BY object_uri
