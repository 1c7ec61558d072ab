-- The events of the scenes that are kept, each with whether it is what it says and its completion is there.
SELECT
    e.scene,
    e.seq,
    e.payload::VARCHAR,
    e.hash,
    e.kind = 'SceneFinished',
    starts_with(e.payload::VARCHAR, '{"kind":"' || e.kind || '",')
        AND (e.kind != 'TurnCompleted' OR coalesce(lower(hex(c.request)) = e.payload ->> 'request' AND lower(hex(c.text)) = e.payload ->> 'text', false))
FROM (FROM found.events QUALIFY row_number() OVER (PARTITION BY scene, seq ORDER BY place) = 1) e
JOIN scenes s USING (scene)
LEFT JOIN found.completions c
    ON e.kind = 'TurnCompleted' AND c.scene = e.scene AND c.path = e.payload ->> 'path' AND c.attempt::VARCHAR = e.payload ->> 'attempt'
ORDER BY s.position, e.seq
