-- What the last session has done that did anything; of a log that has no sessions, no row.
WITH session AS (
    SELECT session, began_at FROM sessions
    ORDER BY EXISTS (SELECT 1 FROM commits WHERE commits.session = sessions.session) DESC, session DESC LIMIT 1
),
committed AS (
    SELECT
        count(*) AS commits,
        max(committed_at) AS last_commit_at,
        quantile_disc(delay_us, 0.5) / 1000 AS p50_ms,
        quantile_disc(delay_us, 0.99) / 1000 AS p99_ms,
        max(delay_us) / 1000 AS max_ms
    FROM commits WHERE session = (SELECT session FROM session)
),
turns AS (
    SELECT count(*) AS turns, coalesce(sum(generated_tokens), 0) AS generated_tokens, max(recorded_at) AS last_turn_at
    FROM completions WHERE recorded_at >= (SELECT began_at FROM session)
),
finished AS (
    SELECT count(*) AS scenes
    FROM events WHERE kind = 'SceneFinished' AND recorded_at >= (SELECT began_at FROM session)
)
SELECT
    session.session,
    session.began_at,
    greatest(committed.last_commit_at, turns.last_turn_at) AS last_at,
    finished.scenes,
    turns.turns,
    turns.generated_tokens,
    committed.commits,
    committed.p50_ms,
    committed.p99_ms,
    committed.max_ms
FROM session, committed, turns, finished
