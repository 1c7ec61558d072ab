-- The turns of some scenes that come before another, by the order of their events: which turns are as they were when one is changed.
WITH completed AS (
    SELECT scene, seq, payload ->> 'path' AS path, (payload ->> 'attempt')::UINTEGER AS attempt
    FROM events
    WHERE kind = 'TurnCompleted' AND scene IN (SELECT unnest($1::BLOB[]))
)
SELECT scene, path, attempt
FROM completed
WHERE seq < (SELECT min(seq) FROM completed turn WHERE turn.scene = completed.scene AND turn.path = $2)
