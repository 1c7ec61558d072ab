-- Which critiques came to the consequence, through how many condensations, and which were lost on the way?
SELECT severity, len(through) AS condensations, count(*) AS critiques, count(*) FILTER (reached) AS reached,
    count(*) FILTER (NOT reached) AS lost
FROM critique
GROUP BY ALL
ORDER BY severity DESC, condensations
