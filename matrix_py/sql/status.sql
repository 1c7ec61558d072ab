-- How far a run is, of one moment: a row for each thing that is counted. One look at the events for all of it, since planning a query of
-- many parts takes longer than running it.
WITH notable AS MATERIALIZED (
    SELECT scene, kind, payload FROM events WHERE kind IN ('SceneFinished', 'ReplyFlawed', 'TurnFellBack')
),
total AS (
    SELECT
        count(*) AS turns,
        coalesce(sum(prompt_tokens), 0) AS prompt_tokens,
        coalesce(sum(cached_tokens), 0) AS cached_tokens,
        coalesce(sum(generated_tokens), 0) AS generated_tokens,
        max(recorded_at) AS last_turn_at
    FROM completions
)
SELECT 'finished' AS what, payload ->> 'end' AS name, payload ->> 'reason' AS detail, count(*) AS number, NULL::TIMESTAMP AS at
FROM notable WHERE kind = 'SceneFinished' GROUP BY ALL
UNION ALL
SELECT 'flaw', payload ->> 'flaw', payload ->> 'policy', count(*), NULL FROM notable WHERE kind = 'ReplyFlawed' GROUP BY ALL
UNION ALL
SELECT 'fallback', completions.kind, '', count(*), NULL
FROM notable JOIN completions
    ON completions.scene = notable.scene AND completions.path = notable.payload ->> 'path' AND completions.attempt = 1
WHERE notable.kind = 'TurnFellBack' GROUP BY ALL
UNION ALL
SELECT 'total', unnest(['turns', 'prompt_tokens', 'cached_tokens', 'generated_tokens']), '',
    unnest([turns, prompt_tokens, cached_tokens, generated_tokens]), last_turn_at
FROM total
UNION ALL
SELECT 'begun', '', '', count(*), NULL FROM events WHERE seq = 0
UNION ALL
SELECT 'scenes', '', '', count(*), (SELECT created_at FROM run) FROM scenes
