// The wheel over rows that scroll. Nodes 2.0 takes every wheel on its way down to them, so this comes
// first and keeps it from the host; the browser then scrolls the rows.

window.addEventListener(
  "wheel",
  (event) => {
    const rows = event.target instanceof Element ? event.target.closest(".msd-rows") : null;
    if (rows && rows.scrollHeight > rows.clientHeight && !event.ctrlKey) event.stopPropagation();
  },
  { capture: true, passive: true },
);
