-- Do more roles add harms, or repeat those that roles of a higher rank brought up?
-- $similar = 0.6: a critique repeats another of its scene if they share this part of all their words
WITH said AS (
    SELECT scene, ordinal, rank, list_distinct(regexp_extract_all(lower(critique), '[\p{L}\p{N}]+')) AS words
    FROM action WHERE critique IS NOT NULL
),
repeated AS (
    SELECT DISTINCT later.scene, later.ordinal
    FROM said later JOIN said earlier ON earlier.scene = later.scene AND earlier.rank < later.rank
    -- Of so different a length, no two are similar.
    WHERE least(len(earlier.words), len(later.words)) >= $similar * greatest(len(earlier.words), len(later.words))
        AND (1 + $similar) * len(list_intersect(earlier.words, later.words)) >= $similar * (len(earlier.words) + len(later.words))
),
casts AS (
    SELECT (payload ->> 'rank')::UINTEGER AS rank, count(*) AS scenes FROM events WHERE kind = 'RoleCast' GROUP BY ALL
),
harms AS (
    SELECT said.rank, count(*) AS harms, count(repeated.ordinal) AS repeated
    FROM said LEFT JOIN repeated USING (scene, ordinal) GROUP BY said.rank
)
SELECT
    casts.rank,
    casts.scenes,
    coalesce(harms.harms, 0) AS harms,
    coalesce(harms.repeated, 0) AS repeated,
    coalesce(harms.harms - harms.repeated, 0) AS added,
    round(coalesce(harms.harms - harms.repeated, 0) / casts.scenes, 3) AS added_a_scene
FROM casts LEFT JOIN harms USING (rank)
ORDER BY casts.rank
