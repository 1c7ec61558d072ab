-- From which events is a training row: all of its scene, in order?
-- Rests on a dataset: run `matrix export` first. `own`: the event of the very turn whose text is learnt.
-- $row = "": hash of the row, or its first digits
SELECT
    lower(hex(r.scene)) AS scene,
    r.path,
    r.attempt,
    e.seq,
    e.kind,
    e.kind = 'TurnCompleted' AND e.payload ->> 'path' = r.path AND e.payload ->> 'attempt' = r.attempt::VARCHAR AS own,
    e.payload
FROM (
    SELECT DISTINCT scene, path, attempt FROM dataset_rows
    WHERE number IS NOT NULL AND $row != '' AND starts_with(lower(hex(row)), lower($row))
) r
JOIN events e USING (scene)
ORDER BY scene, r.path, r.attempt, e.seq
