-- Which turns were refused by the model, and what followed?
-- `answered`: another attempt was taken. `fell_back`: the fallback stood in. `failed`: the scene did.
WITH turns AS (
    SELECT scene, path, count(DISTINCT attempt) FILTER (flaw = 'refusal') AS refusals, bool_or(policy = 'failed') AS failed
    FROM flaw GROUP BY ALL HAVING refusals > 0
),
fallbacks AS (
    SELECT lower(hex(scene)) AS scene, payload ->> 'path' AS path FROM events WHERE kind = 'TurnFellBack'
),
kinds AS (
    SELECT lower(hex(scene)) AS scene, path, kind FROM completions WHERE attempt = 1
)
SELECT
    s.position,
    s.scene,
    turns.path,
    kinds.kind,
    turns.refusals,
    CASE
        WHEN fallbacks.path IS NOT NULL THEN 'fell_back'
        WHEN turns.failed THEN 'failed'
        ELSE 'answered'
    END AS followed,
    s.state
FROM turns
JOIN scene s USING (scene)
JOIN kinds USING (scene, path)
LEFT JOIN fallbacks ON fallbacks.scene = turns.scene AND fallbacks.path = turns.path
ORDER BY s.position, turns.path
