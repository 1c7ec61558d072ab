-- Why did turns give no training row, by kind of row and kind of turn?
-- Rests on a dataset: run `matrix export` first. The latest counts.
SELECT r.kind, coalesce(c.kind, r.path) AS turn, coalesce(r.dropped_by, 'kept') AS reason, count(*) AS turns
FROM dataset_rows r
LEFT JOIN completions c USING (scene, path, attempt)
WHERE r.dataset = (SELECT arg_max(dataset, built_at) FROM datasets)
GROUP BY ALL
ORDER BY r.kind, turn, turns DESC, reason
