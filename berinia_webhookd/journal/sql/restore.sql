-- Statements for putting a copy in the place of a SQLite journal, executed on the copy, to which
-- the journal is attached as `present`. Rows that the copy lacks are taken from there, with numbers
-- after those of the copy. The first ones become temporary tables of their names.

-- name: restore_taken_events
-- The events that the copy lacks.
SELECT number, delivery, conversation FROM present.events
WHERE digest NOT IN (SELECT digest FROM main.events)
  AND digest NOT IN (SELECT digest FROM main.seen);

-- name: restore_taken_deliveries
-- Their deliveries, and those that were rejected as a whole.
SELECT number FROM present.deliveries AS theirs
WHERE number IN (SELECT delivery FROM taken_events)
   OR state = 'rejected' AND id NOT IN (SELECT id FROM main.deliveries)
      AND NOT EXISTS (SELECT 1 FROM main.deliveries AS ours WHERE ours.once_key = theirs.once_key);

-- name: restore_behind
-- The offsets of their numbers: for deliveries; for events and places, which begin at the
-- delivery's times 1048576; and for others.
SELECT number, number * 1048576 AS place, conversation, action FROM (
    SELECT max(coalesce((SELECT max(number) FROM main.deliveries), 0),
               coalesce((SELECT max(place) FROM main.entries), 0) / 1048576) AS number,
           coalesce((SELECT max(id) FROM main.conversations), 0) AS conversation,
           coalesce((SELECT max(number) FROM main.actions), 0) AS action);

-- name: restore_conversation_of
-- A conversation of the same parties is the same one.
SELECT theirs.id AS theirs, coalesce(ours.id, theirs.id + behind.conversation) AS ours
FROM present.conversations AS theirs
JOIN behind
LEFT JOIN main.conversations AS ours
  ON ours.sender = theirs.sender AND ours.channel = theirs.channel AND ours.party = theirs.party
WHERE theirs.id IN (SELECT conversation FROM taken_events);

-- name: restore_seen
-- Digests.
INSERT INTO seen (digest, event, received_at)
SELECT digest, event, received_at FROM present.seen WHERE true
ON CONFLICT DO NOTHING;

-- name: restore_pauses
-- Take over the journal's pauses.
INSERT INTO conversations
    (channel, sender, party, of_group, paused_at, paused_until, paused_by, paused_for)
SELECT channel, sender, party, of_group, paused_at, paused_until, paused_by, paused_for
FROM present.conversations AS theirs
WHERE paused_at IS NOT NULL
   OR EXISTS (SELECT 1 FROM main.conversations AS ours
              WHERE ours.sender = theirs.sender AND ours.channel = theirs.channel
                AND ours.party = theirs.party AND ours.paused_at IS NOT NULL)
ON CONFLICT (channel, sender, party) DO UPDATE
SET paused_at = excluded.paused_at, paused_until = excluded.paused_until,
    paused_by = excluded.paused_by, paused_for = excluded.paused_for;

-- name: restore_agents
-- Merge guards' counts of agents: of two, the stricter. One success ends failures.
INSERT INTO agents (agent, failures, tries, failed_at, day, cost, spent_on)
SELECT agent, failures, tries, failed_at, day, cost, spent_on FROM present.agents WHERE true
ON CONFLICT (agent) DO UPDATE
SET failures = max(agents.failures, excluded.failures), tries = max(agents.tries, excluded.tries),
    failed_at = nullif(max(coalesce(agents.failed_at, 0), coalesce(excluded.failed_at, 0)), 0),
    cost = CASE WHEN agents.day > excluded.day THEN agents.cost
                WHEN agents.day < excluded.day THEN excluded.cost
                ELSE max(agents.cost, excluded.cost) END,
    day = max(agents.day, excluded.day),
    spent_on = nullif(max(coalesce(agents.spent_on, 0), coalesce(excluded.spent_on, 0)), 0);

-- name: restore_runs
-- When agents ran for people, unless the copy has forgotten who they are.
INSERT INTO runs (sender, agent, started_at, entry)
SELECT sender, agent, started_at, entry FROM present.runs
WHERE sender IN (SELECT sender FROM main.conversations)
ON CONFLICT DO NOTHING;

-- name: restore_consents
-- Merge consents: the later statement counts.
INSERT INTO consents (address, channel, state, since, event, latest_at, erased_by)
SELECT address, channel, state, since, event, latest_at, erased_by FROM present.consents WHERE true
ON CONFLICT (address, channel) DO UPDATE
SET state = excluded.state, since = excluded.since, event = excluded.event,
    latest_at = excluded.latest_at
WHERE excluded.latest_at > consents.latest_at;

-- name: restore_named
-- The addresses in the register, and whether the journal's has them.
SELECT DISTINCT address, EXISTS (SELECT 1 FROM present.consents AS theirs
                                 WHERE theirs.address = ours.address) AS present
FROM main.consents AS ours WHERE erased_by IS NULL;

-- name: restore_digests
-- The digests in the register.
SELECT DISTINCT address FROM main.consents WHERE erased_by IS NOT NULL;

-- name: restore_forget
-- Delete one row of a person with both an address and a digest.
DELETE FROM main.consents WHERE address = :address;

-- name: restore_actions
-- The actions.
INSERT INTO actions (number, at, who, way, what, about)
SELECT theirs.number + behind.action, at, who, way, what, about
FROM present.actions AS theirs JOIN behind
WHERE NOT EXISTS (SELECT 1 FROM main.actions AS ours
                  WHERE ours.at = theirs.at AND ours.who = theirs.who AND ours.what = theirs.what);

-- name: restore_erased
-- The events erased in the journal.
SELECT ours.number, ours.conversation
FROM main.events AS ours JOIN present.events AS theirs ON theirs.digest = ours.digest
WHERE theirs.data IS NULL AND ours.data IS NOT NULL
ORDER BY ours.number;

-- name: restore_erased_deliveries
-- Bodies erased in the journal, with the remaining parts of their deliveries.
UPDATE deliveries
SET body = NULL, target = theirs.target, headers = theirs.headers, rejection = theirs.rejection
FROM present.deliveries AS theirs
WHERE theirs.id = deliveries.id AND theirs.body IS NULL AND deliveries.body IS NOT NULL;

-- name: restore_conversations
-- The conversations with open entries.
SELECT DISTINCT conversation FROM entries WHERE finished_at IS NULL;
