-- Which training rows are others in a second run, or only in one?
-- Of two logs.
-- Rests on datasets: run `matrix export` on both first, with the same options. The latest of each counts. A row that only the mix left out
-- of one of them is none that changed.
WITH
rows_a AS (FROM dataset_rows WHERE dataset = (SELECT arg_max(dataset, built_at) FROM datasets)),
rows_b AS (FROM b.dataset_rows WHERE dataset = (SELECT arg_max(dataset, built_at) FROM b.datasets)),
compared AS (
    SELECT
        coalesce(a.scene, b.scene) AS scene,
        coalesce(a.path, b.path) AS path,
        coalesce(a.attempt, b.attempt) AS attempt,
        coalesce(a.kind, b.kind) AS kind,
        CASE WHEN b.row IS NULL THEN 'only_a' WHEN a.row IS NULL THEN 'only_b' ELSE 'changed' END AS change,
        lower(hex(a.row)) AS row,
        lower(hex(b.row)) AS b_row,
        a.dropped_by,
        b.dropped_by AS b_dropped_by
    FROM rows_a a FULL JOIN rows_b b ON b.scene = a.scene AND b.path = a.path AND b.attempt = a.attempt
    WHERE (a.number IS NOT NULL OR b.number IS NOT NULL) AND a.row IS DISTINCT FROM b.row
)
SELECT s.position, lower(hex(scene)) AS scene, compared.* EXCLUDE (scene)
FROM compared LEFT JOIN scenes s USING (scene)
ORDER BY s.position, kind, path, attempt
