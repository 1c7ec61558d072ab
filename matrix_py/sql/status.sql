-- How far a run is, in one row and of one moment. What happened how often is a list, the most frequent first.
SELECT
    (SELECT count(*) FROM scenes) AS scenes,
    (SELECT count(*) FROM events WHERE kind = 'SceneFinished' AND payload ->> 'end' = 'completed') AS completed,
    (SELECT count(*) FROM events WHERE kind = 'SceneFinished' AND payload ->> 'end' <> 'completed') AS failed,
    (SELECT count(DISTINCT scene) FROM events WHERE scene NOT IN (SELECT scene FROM events WHERE kind = 'SceneFinished')) AS under_way,
    turns.*,
    (
        SELECT list({'name': reason, 'count': number} ORDER BY number DESC, reason)
        FROM (
            SELECT payload ->> 'reason' AS reason, count(*) AS number
            FROM events WHERE kind = 'SceneFinished' AND payload ->> 'end' <> 'completed' GROUP BY reason
        )
    ) AS failures,
    (
        SELECT list({'name': kind, 'count': number} ORDER BY number DESC, kind)
        FROM (
            SELECT completions.kind, count(*) AS number
            FROM events fell JOIN completions
                ON completions.scene = fell.scene AND completions.path = fell.payload ->> 'path' AND completions.attempt = 1
            WHERE fell.kind = 'TurnFellBack' GROUP BY completions.kind
        )
    ) AS fallbacks,
    (
        SELECT list({'flaw': flaw, 'policy': policy, 'count': number} ORDER BY number DESC, flaw, policy)
        FROM (
            SELECT payload ->> 'flaw' AS flaw, payload ->> 'policy' AS policy, count(*) AS number
            FROM events WHERE kind = 'ReplyFlawed' GROUP BY flaw, policy
        )
    ) AS flaws,
    (SELECT created_at FROM run) AS created_at,
    (SELECT max(recorded_at) FROM completions) AS last_turn_at
FROM (
    SELECT
        count(*) AS turns,
        coalesce(sum(prompt_tokens), 0) AS prompt_tokens,
        coalesce(sum(cached_tokens), 0) AS cached_tokens,
        coalesce(sum(generated_tokens), 0) AS generated_tokens
    FROM completions
) turns
