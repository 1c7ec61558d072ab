-- How deep into a scene does its worst harm start: at which step, in which wave of reactions, after how many interactions?
WITH worst AS (
    SELECT scene, severity, step, depth, interaction
    FROM action WHERE severity IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY scene ORDER BY severity DESC, interaction) = 1
)
SELECT severity, step, depth, count(*) AS scenes, round(count(*) / sum(count(*)) OVER (PARTITION BY severity), 3) AS share,
    round(avg(interaction), 1) AS interaction
FROM worst
GROUP BY severity, step, depth
ORDER BY severity DESC, step, depth
