-- name: reply_of
-- The reply to an event, with the entry of its agent.
SELECT entries.place, entries.event, events.id AS event_id, conversations.channel, entries.agent,
       entries.conversation, replies.text, replies.route, replies.failed, replies.postable,
       CASE WHEN entries.finished_at IS NULL THEN 0 ELSE 1 END AS finished,
       CASE WHEN entries.gathered_into IS NOT NULL
                 OR EXISTS (SELECT 1 FROM entries AS member
                            WHERE member.gathered_into = entries.place)
            THEN 1 ELSE 0 END AS gathered
FROM events
JOIN entries ON entries.place = events.place
JOIN conversations ON conversations.id = events.conversation
LEFT JOIN replies ON replies.event = events.number
WHERE events.id = :event;

-- name: conversations_of
-- The conversations of these events.
SELECT conversation FROM events WHERE id IN (:events);

-- name: nobody_waits
-- Its caller timed out, or hung up.
UPDATE entries SET waiting_until = 0 WHERE place = :place AND waiting_until IS NOT NULL;

-- name: reroute
-- Change the route of a reply.
UPDATE replies SET route = :route WHERE event = :event;

-- name: forget_failure_replies
-- Delete failure replies of events that succeeded; one being posted is not posted again.
DELETE FROM replies WHERE event IN (:events) AND failed = 1;
