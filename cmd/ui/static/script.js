// What runs is shown as it goes on; everything else works without this.
(() => {
  const jobs = document.getElementById("jobs");
  if (jobs) {
    let ran = jobs.querySelector("[data-running]") !== null;
    const look = async () => {
      if (!document.hidden) {
        try {
          const answer = await fetch("/jobs");
          if (answer.ok) {
            const text = await answer.text();
            // Whoever is about to press something there is not disturbed.
            if (!jobs.contains(document.activeElement)) jobs.innerHTML = text;
            const runs = text.includes("data-running");
            if (ran && !runs) { location.reload(); return; }
            ran = runs;
          }
        } catch { /* the server is away; it may come back */ }
      }
      setTimeout(look, ran ? 1000 : 4000);
    };
    setTimeout(look, 1000);
  }
  const filter = document.getElementById("filter");
  if (filter) {
    filter.addEventListener("input", () => {
      const part = filter.value.toLowerCase();
      for (const t of document.querySelectorAll(".target")) t.hidden = !t.dataset.name.toLowerCase().includes(part);
    });
  }
  document.addEventListener("keydown", (e) => {
    if (e.target.closest("input, select, textarea") || e.ctrlKey || e.metaKey || e.altKey) return;
    if (e.key === "/" && filter) { e.preventDefault(); filter.focus(); }
    if (e.key === "g") location.href = "/";
  });
})();
