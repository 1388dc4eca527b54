-- name: received_by_hour
-- How many events came on each channel in each hour, from an event on.
SELECT deliveries.channel, (deliveries.received_at - CAST(:since AS BIGINT)) / 3600000000 AS hour,
       count(*) AS total
FROM events JOIN deliveries ON deliveries.number = events.delivery
WHERE events.number >= :first AND deliveries.number >= CAST(:first AS BIGINT) / 1048576
  AND deliveries.received_at >= :since
GROUP BY 1, 2;

-- name: latest_of_channel
-- When the newest delivery came on a channel, among the newest of all.
SELECT received_at FROM deliveries
WHERE number >= :first AND channel = :channel AND state = 'accepted'
ORDER BY number DESC LIMIT 1;

-- name: dead_with_errors
-- What is dead, with the error of its last attempt, the newest first.
SELECT entries.place, entries.agent, entries.began_at, entries.finished_at, events.id, events.kind,
       attempts.outcome, attempts.error
FROM entries
JOIN events ON events.number = entries.event
LEFT JOIN attempts ON attempts.entry = entries.place
    AND attempts.number = (SELECT max(newer.number) FROM attempts AS newer
                           WHERE newer.entry = entries.place)
WHERE entries.state = 'dead' AND entries.place <= :last
ORDER BY entries.place DESC LIMIT :most;

-- name: recent_actions
-- Who did what, the newest first, before a row.
SELECT number, at, who, way, what, about FROM actions
WHERE number < :before ORDER BY number DESC LIMIT :most;

-- name: newest_entries
-- The newest entries, with their agents.
SELECT place, agent FROM entries WHERE place > 0 ORDER BY place DESC LIMIT :most;

-- name: failures_of_entries
-- Their attempts that failed.
SELECT entry, ended_at, error FROM attempts
WHERE entry IN (:places) AND outcome <> 'success'
ORDER BY ended_at DESC;

-- name: event_of_digests
-- The event that has one of these digests.
SELECT id FROM events WHERE digest IN (:digests) ORDER BY number DESC LIMIT 1;

-- name: rejected_delivery_in_full
-- What came with a delivery that was rejected, at least in part.
SELECT channel, target, headers, content_type, received_at, replay_key, body FROM deliveries
WHERE id = :id AND rejection IS NOT NULL AND body IS NOT NULL;
