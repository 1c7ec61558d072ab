SELECT page.position, page.scene, instruction.text, page.response, response.text, page.occurrence
FROM page
LEFT JOIN texts instruction ON instruction.hash = page.instruction
LEFT JOIN texts response ON response.hash = page.response
ORDER BY page.position
