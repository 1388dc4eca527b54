-- name: kept_once
-- Those of these that are stored already.
SELECT once_key FROM deliveries WHERE once_key IN (:keys) AND once_key IS NOT NULL;

-- name: drop_oldest_rejected
-- Delete all but the newest ones.
DELETE FROM deliveries
WHERE state = 'rejected'
  AND id <= (SELECT kept.id FROM deliveries AS kept
             WHERE kept.state = 'rejected'
             ORDER BY kept.id DESC LIMIT 1 OFFSET :keep_most);
