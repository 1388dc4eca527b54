-- name: first_delivery_from
-- The time of receipt at a number, for a binary search: deliveries are numbered in the order of
-- arrival.
SELECT number, received_at FROM deliveries WHERE number >= :number ORDER BY number LIMIT 1;

-- name: last_number
-- The number of the newest delivery.
SELECT coalesce(max(number), 0) AS number FROM deliveries;

-- name: list_entries
-- Entries, the newest event first; a filter that is NULL matches all, and is written so that the
-- planner sees it. The order by a single key lets the scan end with the limit.
SELECT events.id, entries.state, deliveries.channel, entries.agent, events.kind,
       entries.kind AS entry, deliveries.received_at,
       (SELECT count(*) FROM attempts WHERE attempts.entry = entries.place) AS attempts,
       entries.place, events.number AS event,
       (SELECT reason FROM reasons WHERE reasons.place = entries.place) AS reason,
       CASE WHEN entries.began_at IS NULL THEN 0 ELSE 1 END AS began,
       (SELECT other.id FROM entries AS last JOIN events AS other ON other.number = last.event
        WHERE last.place = entries.gathered_into) AS gathered_into
FROM events
JOIN entries ON entries.place = events.place
             OR (entries.event = events.number AND (entries.kind = 'reply') IS TRUE)
JOIN deliveries ON deliveries.number = events.delivery
WHERE events.number >= :first AND events.number < :end
  AND deliveries.number >= CAST(:first AS BIGINT) / 1048576
  AND deliveries.received_at >= :since AND deliveries.received_at < :until
  AND (CAST(:kind AS TEXT) IS NULL OR events.kind = CAST(:kind AS TEXT))
  AND (CAST(:channel AS TEXT) IS NULL OR deliveries.channel = CAST(:channel AS TEXT))
  AND (CAST(:agent AS TEXT) IS NULL OR entries.agent = CAST(:agent AS TEXT))
  AND (CAST(:state AS TEXT) IS NULL OR entries.state = CAST(:state AS TEXT))
ORDER BY events.number DESC LIMIT :most;

-- name: list_few
-- The same of a state in which there are few, however many are done.
SELECT id, state, channel, agent, event_kind AS kind, kind AS entry, received_at,
       attempts_made AS attempts, place, event, reason,
       CASE WHEN began_at IS NULL THEN 0 ELSE 1 END AS began, gathered_into
FROM entries_in_full
WHERE place IN (SELECT place FROM entries_to_start
                UNION ALL SELECT place FROM entries WHERE state = 'dead'
                UNION ALL SELECT place FROM entries WHERE state = 'discarded'
                UNION ALL SELECT place FROM entries
                          WHERE state = 'running' AND gathered_into IS NULL
                UNION ALL SELECT place FROM entries WHERE gathered_into IS NOT NULL)
  AND event >= :first AND event < :end AND received_at >= :since AND received_at < :until
  AND (CAST(:kind AS TEXT) IS NULL OR event_kind = CAST(:kind AS TEXT))
  AND (CAST(:channel AS TEXT) IS NULL OR channel = CAST(:channel AS TEXT)) AND (CAST(:agent AS TEXT) IS NULL OR agent = CAST(:agent AS TEXT))
  AND state = :state
ORDER BY event DESC, place DESC LIMIT :most;

-- name: list_of_person
-- The same of one person. Not by the view of all entries of events, of which PostgreSQL believes
-- that it finds thousands, and would rather read all events in their order.
SELECT id, state, channel, agent, event_kind AS kind, kind AS entry, received_at,
       attempts_made AS attempts, place, event, reason,
       CASE WHEN began_at IS NULL THEN 0 ELSE 1 END AS began, gathered_into
FROM entries_in_full
WHERE place IN (SELECT place FROM entries_of_conversations
                WHERE conversation IN (:conversations)
                UNION ALL SELECT events.place
                FROM authors JOIN events ON events.number = authors.event
                WHERE authors.address = :sender
                UNION ALL SELECT replies.place
                FROM authors JOIN entries AS replies
                    ON replies.event = authors.event AND (replies.kind = 'reply') IS TRUE
                WHERE authors.address = :sender)
  AND event >= :first AND event < :end AND received_at >= :since AND received_at < :until
  AND (CAST(:kind AS TEXT) IS NULL OR event_kind = CAST(:kind AS TEXT))
  AND (CAST(:channel AS TEXT) IS NULL OR channel = CAST(:channel AS TEXT)) AND (CAST(:agent AS TEXT) IS NULL OR agent = CAST(:agent AS TEXT))
  AND (CAST(:state AS TEXT) IS NULL OR state = CAST(:state AS TEXT))
ORDER BY event DESC, place DESC LIMIT :most;

-- name: list_rejected
-- Deliveries that were rejected, or some items of which were, the newest first.
SELECT id, channel, received_at, rejection FROM deliveries
WHERE rejection IS NOT NULL
  AND received_at >= :since AND received_at < :until AND (CAST(:channel AS TEXT) IS NULL OR channel = CAST(:channel AS TEXT))
ORDER BY id DESC LIMIT :most;

-- name: sizes_of_events
-- The sizes of events' contents.
SELECT events.number, coalesce(length(events.data), 0)
       + CASE WHEN events.raw_in_body = 1 THEN coalesce(length(deliveries.body), 0) ELSE 0 END AS size
FROM events JOIN deliveries ON deliveries.number = events.delivery
WHERE events.number IN (:events);

-- name: contents_of_events
-- The contents and parties of events.
SELECT events.number, events.data,
       CASE WHEN events.raw_in_body = 1 THEN deliveries.body END AS form, conversations.party
FROM events
JOIN deliveries ON deliveries.number = events.delivery
JOIN conversations ON conversations.id = events.conversation
WHERE events.number IN (:events);

-- name: last_errors
-- The error of the last attempt of entries.
SELECT attempts.entry, attempts.error FROM attempts
WHERE attempts.entry IN (:places)
  AND attempts.number = (SELECT max(newer.number) FROM attempts AS newer
                         WHERE newer.entry = attempts.entry);

-- name: gathering
-- Until when entries wait for their conversations to be silent, at the earliest.
SELECT place, CASE WHEN quiet_at < gather_by THEN quiet_at ELSE gather_by END AS until
FROM entries
WHERE place IN (:places) AND state = 'ready' AND quiet_at > :now AND gather_by > :now;

-- name: ids_beside
-- The ids before and after one, of events and of rejected deliveries.
SELECT (SELECT id FROM events WHERE id < :id ORDER BY id DESC LIMIT 1) AS event_before,
       (SELECT id FROM events WHERE id > :id ORDER BY id LIMIT 1) AS event_after,
       (SELECT id FROM deliveries WHERE rejection IS NOT NULL AND id < :id
        ORDER BY id DESC LIMIT 1) AS delivery_before,
       (SELECT id FROM deliveries WHERE rejection IS NOT NULL AND id > :id
        ORDER BY id LIMIT 1) AS delivery_after;

-- name: ids_between
-- Ids in a range, of events and of rejected deliveries.
SELECT id, 'event' AS what FROM events WHERE id >= :first AND id < :end
UNION ALL
SELECT id, 'delivery' FROM deliveries
WHERE rejection IS NOT NULL AND id >= :first AND id < :end
LIMIT :most;

-- name: show_event
-- An event with the delivery it came in.
SELECT events.number, events.id, events.kind, events.skipped, events.data,
       CASE WHEN events.raw_in_body = 1 THEN deliveries.body END AS form, deliveries.channel, deliveries.node,
       deliveries.received_at, deliveries.content_type, length(deliveries.body) AS body_bytes
FROM events JOIN deliveries ON deliveries.number = events.delivery
WHERE events.id = :id;

-- name: show_delivery
-- A delivery that was rejected, or some items of which were.
SELECT number, id, 'rejected' AS state, channel, NULL AS agent, NULL AS kind, NULL AS skipped, node, received_at,
       content_type, length(body) AS body_bytes, NULL AS data, rejection, NULL AS reply
FROM deliveries WHERE id = :id AND rejection IS NOT NULL;

-- name: show_entries
-- The entries of an event, by agent.
SELECT entries.place, entries.kind, entries.agent, entries.opt_out, entries.state,
       entries.created_at, entries.due_at, entries.hold_until, entries.lease_until, entries.node,
       entries.started_at, entries.finished_at, entries.retries, entries.losses, entries.held,
       CASE WHEN entries.began_at IS NULL THEN 0 ELSE 1 END AS began,
       CASE WHEN entries.state = 'ready' AND entries.quiet_at < entries.gather_by
            THEN entries.quiet_at
            WHEN entries.state = 'ready' AND entries.quiet_at IS NOT NULL
            THEN entries.gather_by END AS gathers_until,
       (SELECT events.id FROM entries AS last JOIN events ON events.number = last.event
        WHERE last.place = entries.gathered_into) AS gathered_into,
       conversations.paused_at, conversations.paused_until, conversations.paused_by,
       conversations.paused_for
FROM entries JOIN conversations ON conversations.id = entries.conversation
WHERE entries.place IN (SELECT place FROM entries_of_events WHERE event = :event)
ORDER BY entries.created_at, entries.place;

-- name: show_members
-- The events that share the attempts of an event's entries.
SELECT member.gathered_into AS place, events.id
FROM entries AS member JOIN events ON events.number = member.event
WHERE member.gathered_into IN (SELECT place FROM entries_of_events WHERE event = :event)
ORDER BY member.place;

-- name: show_attempts
-- The attempts of an event.
SELECT entry, number, node, started_at, ended_at, outcome, error, reply FROM attempts
WHERE entry IN (SELECT place FROM entries_of_events WHERE event = :event)
ORDER BY entry, number;

-- name: show_reply
-- The reply to an event.
SELECT text, route, failed, decided_at FROM replies WHERE event = :event;

-- name: unavailable_agents
-- Why agents cannot be loaded, by the nodes that tried.
SELECT agent, node, reason, since FROM unavailable_agents ORDER BY agent, node;

-- name: count_by_state
-- How many entries are in each state.
SELECT kind, channel, agent, state, CAST(sum(total) AS BIGINT) AS total FROM tallies
GROUP BY kind, channel, agent, state HAVING sum(total) > 0
ORDER BY kind, channel, agent, state;

-- name: oldest_open
-- Since when the oldest entry of each agent waits, ready or for a retry; held ones are left out.
SELECT agent, min(created_at) AS since FROM (
    SELECT agent, created_at, conversation FROM entries
    WHERE state = 'ready' AND startable_at IS NULL
    UNION ALL
    SELECT agent, created_at, conversation FROM entries WHERE startable_at IS NOT NULL
    UNION ALL
    SELECT agent, created_at, conversation FROM entries WHERE state = 'waiting'
) AS open_entries
WHERE conversation NOT IN (SELECT conversation FROM held_conversations)
GROUP BY agent ORDER BY agent;

-- name: first_event_from
-- The event that a number belongs to, or the next one.
SELECT id FROM events WHERE number >= :first ORDER BY number LIMIT 1;

-- name: received_since
-- How many events came since one: their ids are in the order of time, and take far less room than they.
SELECT count(*) AS total FROM events WHERE id >= :id;

-- name: finished_since
-- The number of entries that ended since an instant, except dead ones.
SELECT count(*) AS total FROM entries
WHERE finished_at >= :since AND finished_at IS NOT NULL AND state <> 'dead';

-- name: count_rejected
-- How many deliveries were rejected, or some items of which were.
SELECT count(*) AS total FROM deliveries WHERE rejection IS NOT NULL;

-- name: last_received_at
-- When the newest delivery came.
SELECT received_at FROM deliveries WHERE number = (SELECT max(number) FROM deliveries);

-- name: received_by_channel
-- How many deliveries were accepted on each channel, and when the last one came, among the newest of
-- a range of numbers.
SELECT channel, count(*) AS total, max(received_at) AS last_at
FROM (SELECT channel, received_at FROM deliveries
      WHERE number >= :first AND number < :end AND state = 'accepted'
      ORDER BY number DESC LIMIT :most) AS newest
GROUP BY channel;

-- name: server_settings
-- How a PostgreSQL server is set up.
SELECT name, setting FROM pg_settings WHERE name IN (:names);

-- name: oldest_ready
-- For how long an agent's oldest entry has been ready: it stands behind others, or may start at
-- once, or when a failure before it holds it back no longer. What is held waits for somebody else.
SELECT CAST(:now AS BIGINT) - min(created_at) AS age FROM (
    SELECT created_at FROM (
        SELECT created_at FROM entries
        WHERE agent = :agent AND state = 'ready' AND startable_at IS NULL
          AND conversation NOT IN (SELECT conversation FROM held_conversations)
        ORDER BY place LIMIT 1) AS behind
    UNION ALL
    SELECT created_at FROM (
        SELECT created_at FROM entries
        WHERE kind = :kind AND agent = :agent AND startable_at = 0
        ORDER BY place LIMIT 1) AS at_once
    UNION ALL
    SELECT created_at FROM entries
    WHERE kind = :kind AND agent = :agent AND startable_at > 0 AND state = 'ready'
      AND conversation NOT IN (SELECT conversation FROM held_conversations)
) AS ready;

-- name: delivery_of
-- The delivery that an event came with, or one that was rejected, by its id; unless it was erased.
SELECT channel, target, headers, content_type, received_at, replay_key, body FROM deliveries
WHERE number = coalesce((SELECT delivery FROM events WHERE id = :id),
                        (SELECT number FROM deliveries WHERE rejection IS NOT NULL AND id = :id))
  AND body IS NOT NULL;

-- name: count_may_have_acted
-- The number of dead entries that may have acted, by agent.
SELECT agent, count(*) AS total FROM entries
WHERE state = 'dead' AND began_at IS NOT NULL
GROUP BY agent ORDER BY agent;
