-- After which interaction does each theme first appear in the critiques? A theme is a word.
-- $words = ".{5,}": which words count, as a regular expression: all of five letters or more, or such as "privacy|fire|theft"
-- $least = 2: in how many scenes it appears at least
-- $most = 50: rows at most
WITH said AS (
    SELECT scene, interaction, unnest(list_distinct(regexp_extract_all(lower(critique), '\p{L}+'))) AS theme
    FROM action WHERE critique IS NOT NULL
),
first AS (
    SELECT theme, scene, min(interaction) AS interaction FROM said GROUP BY ALL
)
SELECT theme, count(*) AS scenes, min(interaction) AS earliest, quantile_disc(interaction, 0.5) AS median, max(interaction) AS latest
FROM first
GROUP BY theme
-- Last, since it takes the longest.
HAVING count(*) >= $least AND regexp_full_match(theme, $words::VARCHAR)
ORDER BY scenes DESC, median, theme
LIMIT $most
