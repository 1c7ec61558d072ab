-- What replay, which goes from scene to scene, would not meet: each row says what is wrong, and how often.
SELECT 'events belong to no scene of the run', count(*) FROM events ANTI JOIN scenes USING (scene)
UNION ALL
SELECT 'completions belong to no scene of the run', count(*) FROM completions ANTI JOIN scenes USING (scene)
UNION ALL
SELECT 'scenes are listed twice', count(*) - count(DISTINCT scene) FROM scenes
UNION ALL
SELECT 'positions in the input hold no scene', coalesce(max(position) + 1, 0) - count(DISTINCT position) FROM scenes
UNION ALL
SELECT 'completions are there twice', count(*) - count(DISTINCT (scene, path, attempt)) FROM completions
UNION ALL
-- The column repeats what the payload says, for queries and views.
SELECT 'events are filed under another kind than their own', count(*) FROM events
WHERE NOT starts_with(payload::VARCHAR, '{"kind":"' || kind || '",')
UNION ALL
SELECT 'completions are filed under another kind than their own', count(*)
FROM completions c
JOIN events e ON e.scene = c.scene AND e.kind = 'TurnCompleted' AND e.payload ->> 'path' = c.path
    AND e.payload ->> 'attempt' = c.attempt::VARCHAR
WHERE e.payload ->> 'turn' != c.kind
UNION ALL
SELECT 'texts are there twice', count(*) - count(DISTINCT hash) FROM texts
UNION ALL
SELECT 'texts are missing', count(*) FROM (
    SELECT instruction AS hash FROM scenes
    UNION SELECT response FROM scenes WHERE response IS NOT NULL
    UNION SELECT text FROM completions
    UNION SELECT unnest(segments) FROM completions
) ANTI JOIN texts USING (hash)
