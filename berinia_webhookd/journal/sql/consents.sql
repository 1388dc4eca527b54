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
-- What a person said last.
UPDATE consents SET state = :state, since = :since, event = :event, latest_at = :latest_at
WHERE address = :address AND channel = :channel;

-- name: any_erased
-- Whether there is anybody in it who was erased.
SELECT 1 AS found FROM consents WHERE erased_by IS NOT NULL LIMIT 1;

-- name: erased_by_another
-- Digests that another key made.
SELECT erased_by FROM consents WHERE erased_by IS NOT NULL AND erased_by <> :key LIMIT 1;

-- name: recognise
-- Somebody who was erased writes again: the digest becomes the address.
UPDATE consents SET address = :address, erased_by = NULL
WHERE address = :digest AND erased_by = :key;

-- name: erase_consents
-- The address becomes its digest.
UPDATE consents SET address = :digest, erased_by = :key WHERE address = :address;

-- name: count_consents
-- Of how many channels it names a person.
SELECT count(*) AS total FROM consents WHERE address = :address;

-- name: list_consents
-- What was said last, of all channels or one.
SELECT address, channel, state, since, event, erased_by FROM consents
WHERE channel = coalesce(:channel, channel) ORDER BY latest_at DESC LIMIT :most;

-- name: consents_behind
-- The register in the order of its key, behind one.
SELECT address, channel, state, since, event, erased_by FROM consents
WHERE (address, channel) > (:address, :channel) ORDER BY address, channel LIMIT :most;

-- name: consents_of
-- What it says of a person, under the address or the digest of it.
SELECT address, channel, state, since, event, erased_by FROM consents
WHERE address IN (:addresses) ORDER BY channel;
