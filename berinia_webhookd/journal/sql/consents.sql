-- name: make_consents
-- A row to hold for each person on a channel, written over before anybody sees it.
INSERT INTO consents (address, channel, state, latest_at)
VALUES (:address, :channel, 'opted_in', 0)
ON CONFLICT (address, channel) DO NOTHING;

-- name: hold_consents
-- What the register says of these people, and nobody else changes meanwhile.
SELECT address, channel, state, since, event, latest_at FROM consents
WHERE address IN (:addresses) ORDER BY address, channel
/*postgresql FOR UPDATE */;

-- name: write_consent
UPDATE consents SET state = :state, since = :since, event = :event, latest_at = :latest_at
WHERE address = :address AND channel = :channel;
