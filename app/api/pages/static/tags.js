// Narrow the list of tags to those that hold all words typed.

const box = document.querySelector("[name=tags]");
const lines = [...document.querySelectorAll(".tags tbody tr")].map((line) => [line, line.textContent.toLowerCase()]);
box?.addEventListener("input", () => {
  const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const [line, text] of lines) line.hidden = !words.every((word) => text.includes(word));
});
