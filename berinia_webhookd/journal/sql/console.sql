-- name: received_by_hour
-- The number of events by channel and hour (since 1970), and the last of them, from an hour on.
SELECT deliveries.channel, deliveries.received_at / 3600000000 AS hour, count(*) AS total,
       max(deliveries.received_at) AS last_at
FROM events JOIN deliveries ON deliveries.number = events.delivery
WHERE events.number >= :first AND deliveries.number >= CAST(:first AS BIGINT) / 1048576
  AND deliveries.received_at >= :since
GROUP BY 1, 2;

-- name: latest_of_channel
-- The time of a channel's newest delivery, among so many of all.
SELECT received_at FROM deliveries
WHERE number >= (SELECT max(number) FROM deliveries) - CAST(:newest AS BIGINT)
  AND channel = :channel AND state = 'accepted'
ORDER BY number DESC LIMIT 1;

-- name: dead_groups
-- Entries that died until an instant, by agent, kind and error of the last attempt, the most first,
-- with the newest event of each. Members of a burst share the attempts of its last entry.
SELECT found.agent, found.kind, found.outcome, found.error, found.total, found.acted, found.first_at,
       found.last_at, events.id
FROM (SELECT entries.agent, events.kind, attempts.outcome, attempts.error, count(*) AS total,
             count(entries.began_at) AS acted, min(entries.finished_at) AS first_at,
             max(entries.finished_at) AS last_at, max(entries.place) AS newest
      FROM entries
      JOIN events ON events.number = entries.event
      LEFT JOIN attempts ON attempts.entry = coalesce(entries.gathered_into, entries.place)
          AND attempts.number = (SELECT max(newer.number) FROM attempts AS newer
                                 WHERE newer.entry = attempts.entry)
      WHERE entries.state = 'dead' AND entries.finished_at <= :until
      GROUP BY entries.agent, events.kind, attempts.outcome, attempts.error
      ORDER BY total DESC, newest DESC LIMIT :most) AS found
JOIN entries ON entries.place = found.newest
JOIN events ON events.number = entries.event
ORDER BY found.total DESC, found.newest DESC;

-- name: dead_of_agent
-- An agent's entries that died until an instant, with the error of the last attempt, from a place
-- on.
SELECT entries.place, attempts.outcome, attempts.error
FROM entries
JOIN events ON events.number = entries.event
LEFT JOIN attempts ON attempts.entry = coalesce(entries.gathered_into, entries.place)
    AND attempts.number = (SELECT max(newer.number) FROM attempts AS newer
                           WHERE newer.entry = attempts.entry)
WHERE entries.state = 'dead' AND entries.place > :after AND entries.finished_at <= :until
  AND entries.agent = :agent AND events.kind = :kind
ORDER BY entries.place LIMIT :most;

-- name: recent_actions
-- The actions, the newest first, before a row.
SELECT number, at AS done_at, who, way, what, about FROM actions
WHERE number < :before ORDER BY number DESC LIMIT :most;

-- name: newest_entries
-- The newest entries, with their agents.
SELECT place, agent FROM entries WHERE place > 0 ORDER BY place DESC LIMIT :most;

-- name: failures_of_entries
-- The failed attempts of entries.
SELECT entry, ended_at, error FROM attempts
WHERE entry IN (:places) AND outcome <> 'success'
ORDER BY ended_at DESC;

-- name: event_of_digests
-- The event with one of these digests.
SELECT id FROM events WHERE digest IN (:digests) ORDER BY number DESC LIMIT 1;

-- name: given_place
-- The place of an event's own entry, unless it shares the attempt of another, or is erased.
SELECT entries.place FROM events JOIN entries ON entries.place = events.place
WHERE events.id = :event AND entries.gathered_into IS NULL AND events.data IS NOT NULL;
