-- name: list_held
-- The conversations that are paused, or in which a guard holds an entry.
SELECT id FROM conversations WHERE paused_at IS NOT NULL
UNION
SELECT conversation FROM held_conversations;

-- name: list_paused
-- The paused conversations, and paused groups with everybody in them.
SELECT id FROM conversations WHERE paused_at IS NOT NULL;

-- name: recent_conversations
-- The conversations of the newest events, the newest first.
SELECT conversation, max(number) AS newest
FROM (SELECT conversation, number FROM events
      WHERE number > 0 ORDER BY number DESC LIMIT :events) AS recent
GROUP BY conversation ORDER BY newest DESC LIMIT :most;

-- name: conversations
-- The parties of these conversations, and their pauses.
SELECT id, channel, sender, party, paused_at, paused_until, paused_by, paused_for
FROM conversations WHERE id IN (:conversations);

-- name: last_received
-- The time of the newest event of each of these conversations. Its delivery is looked up by the number
-- that is in the event's; a join would be planned as if there were many.
SELECT newest.conversation,
       (SELECT received_at FROM deliveries WHERE number = newest.event / 1048576) AS received_at
FROM (SELECT conversation, max(event) AS event FROM entries_of_conversations
      WHERE conversation IN (:conversations) GROUP BY conversation) AS newest;

-- name: open_in_conversations
-- The numbers of open and held entries of these conversations.
SELECT conversation, state, held, agent, opt_out, kind, count(*) AS total
FROM entries WHERE place IN (
    SELECT place FROM entries_to_start WHERE conversation IN (:conversations)
    UNION ALL
    SELECT place FROM entries
    WHERE state = 'running' AND gathered_into IS NULL AND conversation IN (:conversations))
GROUP BY conversation, state, held, agent, opt_out, kind;

-- name: events_of_conversation
-- The newest events of a conversation.
SELECT id FROM events
WHERE number IN (SELECT event FROM entries_of_conversations WHERE conversation = :conversation)
ORDER BY number DESC LIMIT :most;

-- name: next_in_conversation
-- The running or next entry of each queue of a conversation, and its start.
SELECT entries.kind, entries.agent, events.id, entries.state, entries.startable_at
FROM entries JOIN events ON events.number = entries.event
WHERE entries.startable_at IS NOT NULL AND entries.conversation = :conversation
UNION ALL
SELECT entries.kind, entries.agent, events.id, entries.state, NULL
FROM entries JOIN events ON events.number = entries.event
WHERE entries.state = 'running' AND entries.gathered_into IS NULL
  AND entries.conversation = :conversation;

-- name: conversation_of_event
-- The conversation of the event with this id.
SELECT conversation FROM events WHERE id = :event;

-- name: entries_to_give_up
-- The entries of these conversations that wait for agents, except opt-outs.
SELECT entries.place, entries.kind, conversations.channel, entries.agent, entries.conversation,
       entries.state
FROM entries JOIN conversations ON conversations.id = entries.conversation
WHERE entries.place IN (SELECT place FROM entries_to_start WHERE conversation IN (:conversations))
  AND entries.kind = 'agent' AND entries.opt_out = 0;

-- name: count_held
-- How many conversations are held, by reason, and for how long the oldest entry that a guard stopped
-- has been here.
SELECT reason, count(DISTINCT conversation) AS total,
       CAST(:now AS BIGINT) - min(created_at) AS age
FROM held_conversations GROUP BY reason ORDER BY reason;
