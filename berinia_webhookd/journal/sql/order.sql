-- name: hold_conversations
-- For PostgreSQL: lock these conversations, given by their ids or their parties, in the order of their
-- ids to prevent deadlocks. The rows are as they are once they are locked: one that was erased
-- meanwhile has no sender any more.
SELECT id, channel, sender, party, CASE WHEN paused_at IS NULL THEN 0 ELSE 1 END AS paused
FROM conversations
/*postgresql
WHERE id = ANY(ARRAY(
    SELECT unnest(CAST(:ids AS BIGINT[]))
    UNION ALL
    SELECT (SELECT id FROM conversations
            WHERE sender = wanted.sender AND channel = wanted.channel AND party = wanted.party)
    FROM unnest(CAST(:channels AS TEXT[]), CAST(:senders AS TEXT[]), CAST(:parties AS TEXT[]))
         AS wanted (channel, sender, party)
))
ORDER BY id
FOR NO KEY UPDATE */;

-- name: heads
-- What each queue of these conversations waits for: the entry that runs, or else the next one; or one
-- that is held, which keeps those behind it from starting. Each part has its index, and finds one
-- entry however many wait.
SELECT conversation, kind, agent, state FROM entries
WHERE startable_at IS NOT NULL AND conversation IN (:conversations)
UNION ALL
SELECT conversation, kind, agent, state FROM entries
WHERE state = 'running' AND gathered_into IS NULL AND conversation IN (:conversations)
UNION ALL
SELECT conversation, kind, agent, state FROM entries
WHERE held IS NOT NULL AND conversation IN (:conversations);

-- name: clear_next
-- Clear the mark of a queue's next entry.
UPDATE entries SET startable_at = NULL
WHERE conversation = :conversation AND kind = :kind AND agent = :agent
  AND startable_at IS NOT NULL;

-- name: set_next
-- Which entry of a queue is next, and from when; none is while one is running. STOP and START, which
-- overtake, keep their places among themselves, and pass every hold. What is held, or stands in a
-- conversation that is paused, is next from the end of that on; without an end it is not (the largest
-- number stands for never). The partial indexes on ready, ready with opt-out, waiting and running
-- find the few rows that matter.
UPDATE entries SET startable_at = next.starts_at
FROM (
    SELECT place, starts_at FROM (
        SELECT place, opt_out,
               /*postgresql greatest*//*sqlite max*/(
                   behind, own, CASE WHEN opt_out = 1 THEN 0 ELSE pause.until END) AS starts_at
        FROM (
            -- The first ready entry holds back all behind it; those that wait before it may hold it
            -- back in turn. One that gathers waits until those behind it have been silent.
            SELECT coalesce(gathered_into, place) AS place, opt_out,
                   coalesce((SELECT max(earlier.hold_until) FROM entries AS earlier
                             WHERE earlier.conversation = :conversation AND earlier.kind = :kind
                               AND earlier.agent = :agent AND earlier.state = 'waiting'
                               AND earlier.place < first.place), 0) AS behind,
                   CASE WHEN held IS NOT NULL THEN coalesce(due_at, 9223372036854775807)
                        WHEN quiet_at IS NULL THEN 0
                        ELSE (SELECT CASE WHEN max(latest.quiet_at) < first.gather_by
                                          THEN max(latest.quiet_at) ELSE first.gather_by END
                              FROM (SELECT quiet_at FROM entries
                                    WHERE conversation = :conversation AND kind = :kind
                                      AND agent = :agent AND state = 'ready'
                                      AND startable_at IS NULL
                                    ORDER BY place DESC LIMIT 50) AS latest) END AS own
            FROM (SELECT place, opt_out, held, due_at, gathered_into, quiet_at, gather_by
                  FROM entries
                  WHERE conversation = :conversation AND kind = :kind AND agent = :agent
                    AND state = 'ready' AND startable_at IS NULL
                  ORDER BY place LIMIT 1) AS first
            UNION ALL
            -- The first that overtakes waits for its like only.
            SELECT place, 1,
                   coalesce((SELECT max(earlier.hold_until) FROM entries AS earlier
                             WHERE earlier.conversation = :conversation AND earlier.kind = :kind
                               AND earlier.agent = :agent AND earlier.state = 'waiting'
                               AND earlier.opt_out = 1
                               AND earlier.place < first_opt_out.place), 0), 0
            FROM (SELECT place FROM entries
                  WHERE conversation = :conversation AND kind = :kind AND agent = :agent
                    AND state = 'ready' AND startable_at IS NULL AND opt_out = 1
                  ORDER BY place LIMIT 1) AS first_opt_out
            UNION ALL
            -- One that waits for its retry, unless a ready one stands before it. With members, it
            -- stands where the first of them does.
            SELECT place, opt_out,
                   coalesce((SELECT max(earlier.hold_until) FROM entries AS earlier
                             WHERE earlier.conversation = :conversation AND earlier.kind = :kind
                               AND earlier.agent = :agent AND earlier.state = 'waiting'
                               AND earlier.opt_out >= waiting.opt_out
                               AND earlier.place < waiting.stands_at), 0), due_at
            FROM (SELECT place, opt_out, due_at,
                         coalesce((SELECT min(member.place) FROM entries AS member
                                   WHERE member.gathered_into = own.place), place) AS stands_at
                  FROM entries AS own
                  WHERE conversation = :conversation AND kind = :kind AND agent = :agent
                    AND state = 'waiting' AND gathered_into IS NULL) AS waiting
            WHERE NOT EXISTS (
                  SELECT 1 FROM entries AS ready
                  WHERE ready.conversation = :conversation AND ready.kind = :kind
                    AND ready.agent = :agent AND ready.state = 'ready'
                    AND ready.startable_at IS NULL
                    AND ready.opt_out >= waiting.opt_out
                    AND ready.place < waiting.stands_at)
        ) AS candidates
        CROSS JOIN (
            -- A reply that an agent has given is posted, even if the conversation was paused since.
            SELECT CASE WHEN paused_at IS NULL OR :kind = 'reply' THEN 0
                        ELSE coalesce(paused_until, 9223372036854775807) END AS until
            FROM conversations WHERE id = :conversation
        ) AS pause
    ) AS timed
    WHERE starts_at < 9223372036854775807
    -- Of those that could start by now, one that overtakes.
    ORDER BY CASE WHEN starts_at > :now THEN starts_at ELSE 0 END, opt_out DESC, place LIMIT 1
) AS next
WHERE entries.place = next.place
  AND NOT EXISTS (SELECT 1 FROM entries AS running
                  WHERE running.conversation = :conversation AND running.kind = :kind
                    AND running.agent = :agent AND running.state = 'running'
                    AND running.gathered_into IS NULL);

-- name: open_queues
-- The queues of these conversations in which something is left to start, however much that is: each
-- of the few agents is asked about.
SELECT conversations.id AS conversation, busy.kind, busy.agent
FROM (SELECT kind, agent FROM tallies WHERE state IN ('ready', 'waiting')
      GROUP BY kind, agent HAVING sum(total) > 0) AS busy
CROSS JOIN conversations
WHERE conversations.id IN (:conversations)
  AND (EXISTS (SELECT 1 FROM entries
               WHERE conversation = conversations.id AND kind = busy.kind
                 AND agent = busy.agent AND startable_at IS NOT NULL)
    OR EXISTS (SELECT 1 FROM entries
               WHERE conversation = conversations.id AND kind = busy.kind
                 AND agent = busy.agent AND state = 'ready' AND startable_at IS NULL)
    OR EXISTS (SELECT 1 FROM entries
               WHERE conversation = conversations.id AND kind = busy.kind
                 AND agent = busy.agent AND state = 'waiting'));

-- name: hold_entries
-- Hold a ready entry, until an instant, or until it is released.
UPDATE entries
SET state = 'ready', held = :reason, due_at = CAST(:now AS BIGINT) + CAST(:lasts AS BIGINT)
WHERE place IN (:places);

-- name: release_entries
-- End all holds of guards in these conversations.
UPDATE entries SET held = NULL, due_at = NULL
WHERE held IS NOT NULL AND conversation IN (:conversations)
RETURNING conversation;
