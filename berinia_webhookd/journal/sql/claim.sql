-- name: startable
-- An agent's entries that may start now, with the size of their events: those without a due time,
-- and those that have fallen due. Entries that another node has locked are skipped. Doubtful are
-- those that may belong to a loop: automatic ones, texts that came twice before, and the last of so
-- many that it may be quick turns. For most, two looks at an index say no.
SELECT place, state, kind, agent, conversation, quiet_at, gather_by,
       (SELECT length(body) FROM deliveries WHERE number = found.event / 1048576) AS size_bytes,
       CASE WHEN opt_out = 0 AND attempts = 0 AND (loop_key = 0 OR (loop_key > 1 AND (
                SELECT count(*) FROM (
                    SELECT earlier.loop_key AS loop_key FROM entries AS earlier
                    WHERE earlier.conversation = found.conversation
                      AND (earlier.startable_at IS NULL) IS TRUE AND earlier.place < found.place
                    ORDER BY earlier.place DESC LIMIT 50) AS recent
                WHERE recent.loop_key = found.loop_key) >= 2) OR (loop_key IS NOT NULL AND (
                SELECT CASE WHEN found.created_at BETWEEN earlier.started_at
                                                  AND earlier.finished_at + 60000000
                            THEN 1 ELSE 0 END
                FROM entries AS earlier
                WHERE earlier.conversation = found.conversation AND earlier.kind = 'agent'
                  AND (earlier.startable_at IS NULL) IS TRUE AND earlier.place < found.place
                ORDER BY earlier.place DESC LIMIT 1) = 1 AND EXISTS (
                SELECT 1 FROM entries AS earlier
                WHERE earlier.conversation = found.conversation
                  AND (earlier.startable_at IS NULL) IS TRUE AND earlier.place < found.place
                ORDER BY earlier.place DESC LIMIT 1 OFFSET 9)))
            THEN 1 ELSE 0 END AS doubtful
FROM (
    SELECT place, event, state, kind, agent, conversation, quiet_at, gather_by,
           opt_out, attempts, loop_key, created_at
    FROM (
        SELECT place, event, state, kind, agent, conversation, quiet_at, gather_by,
               opt_out, attempts, loop_key, created_at
        FROM entries
        WHERE kind = :kind AND agent = :agent AND startable_at = 0
        ORDER BY place LIMIT :most
        /*postgresql FOR UPDATE SKIP LOCKED */
    ) AS at_once
    UNION ALL
    SELECT place, event, state, kind, agent, conversation, quiet_at, gather_by,
           opt_out, attempts, loop_key, created_at
    FROM (
        SELECT place, event, state, kind, agent, conversation, quiet_at, gather_by,
               opt_out, attempts, loop_key, created_at
        FROM entries
        WHERE kind = :kind AND agent = :agent AND startable_at > 0 AND startable_at <= :now
        ORDER BY startable_at, place LIMIT :most
        /*postgresql FOR UPDATE SKIP LOCKED */
    ) AS fallen_due
) AS found;

-- name: next_startable
-- The agents with open entries of a kind: the time until the next one may start, and the state of
-- their guards. What came in this transaction is not counted yet: its commit brings the next claim.
SELECT busy.kind, busy.agent,
       (SELECT min(startable_at) FROM entries
        WHERE entries.kind = busy.kind AND entries.agent = busy.agent AND startable_at > :now)
       - CAST(:now AS BIGINT) AS due_in,
       agents.failures, agents.tries, CAST(:now AS BIGINT) - agents.failed_at AS failed_ago,
       CASE WHEN agents.day = CAST(:now AS BIGINT) / 86400000000 THEN agents.cost END AS cost,
       86400000000 - CAST(:now AS BIGINT) % 86400000000 AS day_left,
       CASE WHEN agents.spent_on = CAST(:now AS BIGINT) / 86400000000 THEN 1 ELSE 0 END AS spent
FROM (SELECT kind, agent FROM tallies WHERE state IN ('ready', 'waiting', 'running')
      GROUP BY kind, agent HAVING sum(total) > 0) AS busy
LEFT JOIN agents ON agents.agent = busy.agent
ORDER BY busy.agent;

-- name: lease
-- Lease these entries to a holder for some time.
UPDATE entries
SET state = 'running', startable_at = NULL, due_at = NULL, attempts = attempts + 1, held = NULL,
    lease_until = CAST(:now AS BIGINT) + :lease, lease_holder = :holder, node = :node,
    started_at = :now
WHERE place IN (:places);

-- name: leased
-- The leased entries, with all data for an attempt.
SELECT entries.place, events.id AS event, entries.kind, entries.agent, entries.conversation,
       entries.attempts, entries.retries, events.data,
       CASE WHEN events.raw_in_body = 1 THEN deliveries.body END AS form,
       consents.state AS consent, consents.since AS consent_since,
       replies.text AS reply_text, replies.decided_at AS replied_at
FROM entries
JOIN events ON events.number = entries.event
JOIN deliveries ON deliveries.number = events.delivery
JOIN conversations ON conversations.id = entries.conversation
LEFT JOIN consents
  ON consents.address = conversations.sender AND consents.channel = deliveries.channel
LEFT JOIN replies ON replies.event = events.number AND entries.kind = 'reply'
                 AND replies.decided_at <= entries.created_at -- a newer one has its own entry
WHERE entries.place IN (:places)
ORDER BY entries.place;

-- name: held
-- The leases that are still the holder's, with whether something of their queue is left behind them,
-- and how often their agent failed in a row. A dead entry keeps its holder if it was lost after its
-- attempt began, so that a late result still counts.
SELECT place, event, kind, agent, conversation, attempts, state,
       CASE WHEN EXISTS (SELECT 1 FROM replies WHERE replies.event = entries.event)
            THEN 1 ELSE 0 END AS has_reply,
       CASE WHEN waiting_until IS NULL THEN 0 ELSE 1 END AS had_caller,
       CASE WHEN waiting_until > :now THEN 1 ELSE 0 END AS has_caller,
       CASE WHEN EXISTS (SELECT 1 FROM entries AS ready
                         WHERE ready.conversation = entries.conversation
                           AND ready.kind = entries.kind AND ready.agent = entries.agent
                           AND ready.state = 'ready' AND ready.startable_at IS NULL)
              OR EXISTS (SELECT 1 FROM entries AS waiting
                         WHERE waiting.conversation = entries.conversation
                           AND waiting.kind = entries.kind AND waiting.agent = entries.agent
                           AND waiting.state = 'waiting')
            THEN 1 ELSE 0 END AS has_next,
       (SELECT failures FROM agents WHERE agents.agent = entries.agent) AS failures
FROM entries
WHERE place IN (:places) AND state IN ('running', 'dead') AND lease_holder = :holder
/*postgresql FOR UPDATE */;

-- name: begin
-- Mark attempts as begun: they are not given back automatically any more.
UPDATE entries SET began_at = :now WHERE place IN (:places);

-- name: extend
-- Extend leases, counted from now.
UPDATE entries SET lease_until = CAST(:now AS BIGINT) + :lease WHERE place IN (:places);

-- name: give_back
-- Give back leases without a trace.
UPDATE entries
SET state = 'ready', lease_until = NULL, lease_holder = NULL, started_at = NULL, began_at = NULL,
    attempts = attempts - 1
WHERE place IN (:places);

-- name: agents_with_open
-- The agents with open entries of a kind.
SELECT agent FROM tallies
WHERE kind = :kind AND state IN ('ready', 'waiting', 'running')
GROUP BY agent HAVING sum(total) > 0
ORDER BY agent;
