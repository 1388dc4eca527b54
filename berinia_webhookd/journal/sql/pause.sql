-- name: conversations_of_group
-- The conversations of everybody with a group, on one channel or on all.
SELECT id, sender FROM conversations
WHERE party = :party AND channel = coalesce(:channel, channel) AND of_group = 1;

-- name: conversations_with_address
-- The conversations of everybody who wrote to an address of ours. These are most of all
-- conversations, so there is no index for them.
SELECT id FROM conversations
WHERE party = :party AND channel = coalesce(:channel, channel) AND of_group = 0;

-- name: channels_of
-- The channels of these conversations.
SELECT DISTINCT channel FROM conversations WHERE id IN (:conversations) ORDER BY channel;

-- name: keep_conversations
-- Lock the table, so that no conversation is created until the commit; waits for running inserts.
/*postgresql LOCK TABLE conversations IN SHARE ROW EXCLUSIVE MODE */
/*sqlite SELECT 1 */;

-- name: conversations_of_person
-- The conversations of a person, on one channel or on all.
SELECT id FROM conversations WHERE sender = :sender AND channel = coalesce(:channel, channel)
UNION
SELECT conversations.id
FROM authors
JOIN events ON events.number = authors.event
JOIN conversations ON conversations.id = events.conversation
WHERE authors.address = :sender AND conversations.channel = coalesce(:channel, conversations.channel);

-- name: pause
-- Of these conversations, those that are paused now, or for longer than they were: no pause ends one
-- that lasts longer.
UPDATE conversations
SET paused_at = CASE WHEN paused_at IS NULL OR paused_until <= :now THEN CAST(:now AS BIGINT)
                     ELSE paused_at END,
    paused_until = CAST(:now AS BIGINT) + CAST(:lasts AS BIGINT), paused_by = :by, paused_for = :why
WHERE id IN (:conversations)
  AND (paused_at IS NULL OR paused_until < CAST(:now AS BIGINT) + CAST(:lasts AS BIGINT)
       OR (CAST(:lasts AS BIGINT) IS NULL AND paused_until IS NOT NULL))
RETURNING id, channel;

-- name: resume
-- Of these conversations, those that were paused.
UPDATE conversations
SET paused_at = NULL, paused_until = NULL, paused_by = NULL, paused_for = NULL
WHERE id IN (:conversations) AND paused_at IS NOT NULL
RETURNING id, channel;

-- name: end_pauses
-- Of these conversations, those whose pause is over.
UPDATE conversations
SET paused_at = NULL, paused_until = NULL, paused_by = NULL, paused_for = NULL
WHERE id IN (:conversations) AND paused_until <= :now
RETURNING id, channel;

-- name: pauses_over
-- The conversations whose pause is over by now.
SELECT id FROM conversations WHERE paused_at IS NOT NULL AND paused_until <= :now LIMIT 500;
