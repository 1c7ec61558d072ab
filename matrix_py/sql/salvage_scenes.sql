-- From what was read of a damaged log (`found`, each row with its place there): the scenes that can be played, in their old order.
INSERT INTO texts SELECT hash, text FROM found.texts QUALIFY row_number() OVER (PARTITION BY hash ORDER BY place) = 1 ORDER BY place;
INSERT INTO scenes
SELECT scene, row_number() OVER (ORDER BY position, place) - 1, label, row, occurrence, instruction, response, meta
FROM (FROM found.scenes QUALIFY row_number() OVER (PARTITION BY scene ORDER BY place) = 1)
WHERE octet_length(scene) = 32
    AND instruction IN (SELECT hash FROM texts)
    AND (response IS NULL OR response IN (SELECT hash FROM texts))
ORDER BY position, place;
-- Completions that cannot be used: of no scene, there twice, or with a text or a part of their prompt missing.
CREATE TABLE found.unusable AS
SELECT place FROM found.completions ANTI JOIN scenes USING (scene)
UNION
SELECT place FROM found.completions QUALIFY row_number() OVER (PARTITION BY scene, path, attempt ORDER BY place) > 1
UNION
SELECT place FROM found.completions c ANTI JOIN texts ON texts.hash = c.text
UNION
SELECT place FROM (SELECT place, unnest(segments) AS hash FROM found.completions) ANTI JOIN texts USING (hash);
-- Where each scene's first loss is, as far as it is known which scene lost something.
CREATE TABLE found.first_losses AS
SELECT scene, min(place) AS place FROM found.completions
SEMI JOIN found.unusable USING (place)
-- The first of doubles stays.
WHERE (scene, path, attempt) NOT IN (SELECT (scene, path, attempt) FROM found.completions ANTI JOIN found.unusable USING (place))
GROUP BY scene;
DELETE FROM found.completions WHERE place IN (FROM found.unusable)
