const show = { kind: "", verdict: "" };
const buttons = [...document.querySelectorAll(".filters button")];
for (const button of buttons) button.addEventListener("click", () => {
  if ("kind" in button.dataset) show.kind = button.dataset.kind;
  else show.verdict = show.verdict === button.dataset.verdict ? "" : button.dataset.verdict;
  for (const each of buttons) each.ariaPressed = String("kind" in each.dataset ? each.dataset.kind === show.kind : each.dataset.verdict === show.verdict);
  for (const group of document.querySelectorAll(".group")) {
    let left = 0;
    for (const card of group.querySelectorAll(".case")) {
      card.hidden = show.verdict !== "" && card.dataset.verdict !== show.verdict;
      left += !card.hidden;
    }
    group.hidden = left === 0 || (show.kind !== "" && group.dataset.kind !== show.kind);
  }
});
