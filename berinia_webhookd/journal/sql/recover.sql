-- name: leases_over
-- After an outage all leases have expired: extend them, so that their holders can renew them.
SELECT entries.place, events.id AS event, entries.kind, conversations.channel, entries.agent,
       entries.conversation, entries.attempts, entries.state,
       CASE WHEN entries.began_at IS NULL THEN 0 ELSE 1 END AS begun
FROM entries
JOIN events ON events.number = entries.event
JOIN conversations ON conversations.id = entries.conversation
WHERE entries.state = 'running' AND entries.gathered_into IS NULL AND entries.lease_until < :now
  AND CAST(:now AS BIGINT) >= CAST(:up_since AS BIGINT) + CAST(:lease AS BIGINT)
LIMIT 500
/*postgresql FOR UPDATE OF entries SKIP LOCKED */;

-- name: conversations_over
-- The conversations of expired leases, which are locked before their entries.
SELECT conversation FROM entries
WHERE state = 'running' AND gathered_into IS NULL AND lease_until < :now
  AND CAST(:now AS BIGINT) >= CAST(:up_since AS BIGINT) + CAST(:lease AS BIGINT)
LIMIT 500;

-- name: leases_of
-- The leased entries, of one process or of all.
SELECT entries.place, events.id AS event, entries.kind, conversations.channel, entries.agent,
       entries.conversation, entries.attempts, entries.state,
       CASE WHEN entries.began_at IS NULL THEN 0 ELSE 1 END AS begun
FROM entries
JOIN events ON events.number = entries.event
JOIN conversations ON conversations.id = entries.conversation
WHERE entries.state = 'running' AND entries.gathered_into IS NULL
  AND entries.lease_holder = coalesce(:holder, entries.lease_holder);

-- name: insert_lost_attempts
-- Record that an attempt of each of these entries ended with its process.
INSERT INTO attempts (entry, number, node, started_at, ended_at, outcome, error)
SELECT place, attempts, node, started_at, :now, 'lost', 'the daemon that ran it ended'
FROM entries WHERE place IN (:places);

-- name: lose
-- Give entries back at the same place, counted as a loss; after too many losses, dead. Begun
-- at-most-once attempts are dead at once, and keep their holder, whose result may still come.
UPDATE entries
SET state = CASE WHEN began_at IS NOT NULL OR losses + 1 >= :most_losses
                 THEN 'dead' ELSE 'ready' END,
    finished_at = CASE WHEN began_at IS NOT NULL OR losses + 1 >= :most_losses
                       THEN CAST(:now AS BIGINT) END,
    losses = losses + 1, lease_until = NULL, quiet_at = NULL,
    lease_holder = CASE WHEN began_at IS NOT NULL THEN lease_holder END
WHERE place IN (:places)
RETURNING place, state;

-- name: left_without_reply
-- Those of these agents' entries without a reply, with their events.
SELECT entries.place, entries.event, events.id AS event_id, entries.agent, entries.conversation,
       conversations.channel, events.data,
       CASE WHEN events.raw_in_body = 1 THEN deliveries.body END AS form,
       0 AS has_reply,
       CASE WHEN entries.waiting_until IS NULL THEN 0 ELSE 1 END AS had_caller,
       CASE WHEN entries.waiting_until > :now THEN 1 ELSE 0 END AS has_caller
FROM entries
JOIN events ON events.number = entries.event
JOIN deliveries ON deliveries.number = events.delivery
JOIN conversations ON conversations.id = entries.conversation
WHERE entries.place IN (:places) AND entries.kind = 'agent' AND events.data IS NOT NULL
  AND NOT EXISTS (SELECT 1 FROM replies WHERE replies.event = entries.event);

-- name: forget_callers
-- End the waits for replies, whose callers were connected to a dead process.
UPDATE entries SET waiting_until = 0 WHERE waiting_until IS NOT NULL AND finished_at IS NULL;
