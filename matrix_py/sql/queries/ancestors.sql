-- What was a turn made from, directly (1) and through other turns (2 and more)?
-- $position = 0: the scene, by its place in the input
-- $turn = "revise": path of the turn
WITH RECURSIVE
-- As view `read`, of one scene only: a view of all of them would look at each.
request AS (
    SELECT payload ->> 'path' AS path, (payload ->> 'attempt')::UINTEGER AS attempt, unnest(payload ->> '$.reads[*]') AS reads
    FROM events WHERE kind = 'TurnCompleted' AND scene = (SELECT scene FROM scenes WHERE position = $position)
),
edge AS MATERIALIZED (
    SELECT path, attempt, split_part(reads, '#', 1) AS reads_path,
        if(contains(reads, '#'), split_part(reads, '#', 2), '1')::UINTEGER AS reads_attempt
    FROM request
),
ancestor AS (
    SELECT reads_path AS path, reads_attempt AS attempt, 1 AS distance FROM edge WHERE path = $turn
    UNION
    SELECT edge.reads_path, edge.reads_attempt, ancestor.distance + 1 FROM ancestor JOIN edge USING (path, attempt)
)
SELECT path, attempt, min(distance) AS distance FROM ancestor GROUP BY ALL ORDER BY distance, path, attempt
