-- name: recipients_of
-- Whom people wrote to on a channel. Receipts are conversations with the message they are about.
SELECT DISTINCT conversations.party
FROM conversations
WHERE conversations.channel = :channel AND conversations.of_group = 0
  AND conversations.sender <> ' everybody' AND conversations.party IS NOT NULL
  AND NOT EXISTS (
      SELECT 1 FROM entries_of_conversations JOIN events
          ON events.number = entries_of_conversations.event
      WHERE entries_of_conversations.conversation = conversations.id AND events.kind <> 'message'
  );

-- name: messages_of
-- What a person wrote on a channel; with the body where the raw fields are read from it.
SELECT events.id, events.data,
       CASE WHEN events.raw_in_body = 1 THEN deliveries.body ELSE NULL END AS form
FROM conversations
JOIN entries_of_conversations ON entries_of_conversations.conversation = conversations.id
JOIN events ON events.number = entries_of_conversations.event
JOIN deliveries ON deliveries.number = events.delivery
WHERE conversations.sender = :sender AND conversations.channel = :channel
  AND events.kind = 'message' AND events.data IS NOT NULL
ORDER BY events.number;
