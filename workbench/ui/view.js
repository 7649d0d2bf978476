// A pane of HTML. What changes is patched into what is there, so that focus, scroll places and a press of the mouse
// that is under way survive a picture that is drawn ten times a second.

const key = (node) => node.dataset?.pick ?? node.dataset?.key;

function morph(old, fresh) {
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  patch(old, fresh);
}

function patch(old, fresh) {
  const before = [...old.childNodes];
  const after = [...fresh.childNodes];
  after.forEach((node, at) => {
    const was = before[at];
    if (!was) old.append(node);
    else if (was.nodeName !== node.nodeName || key(was) !== key(node)) was.replaceWith(node);
    else if (node.nodeType === Node.ELEMENT_NODE) morph(was, node);
    else if (was.data !== node.data) was.data = node.data;
  });
  before.slice(after.length).forEach((node) => node.remove());
}

// JupyterLab takes plain keys in what a cell shows for its own: an arrow on a list would choose the next cell, d d delete this one
if (!window.workbenchKeys) {
  window.workbenchKeys = (event) => event.target.closest?.(".wb-panel") && event.target.toggleAttribute( // its rules match :focus itself
    "data-lm-suppress-shortcuts", !(event.ctrlKey || event.metaKey || event.altKey));
  window.addEventListener("keydown", window.workbenchKeys, true);
  // ipywidgets names no slider, and by its help or "yes" what stands beside a label of ours
  window.workbenchNames = (panel) => panel?.querySelectorAll(".wb-field, .wb-scrub").forEach((row) => {
    const name = row.querySelector(row.matches(".wb-scrub") ? ".widget-label" : ".wb-fieldname")?.textContent;
    for (const part of name ? row.querySelectorAll("input, select, textarea, .noUi-handle") : []) {
      const own = part.closest(".widget-checkbox")?.querySelector("span")?.textContent;
      if (!part.closest("[data-pick]")) part.setAttribute("aria-label", own ? `${name}: ${own}` : name);
    }
  });
  window.addEventListener("focusin", ({ target }) => window.workbenchNames(target.closest?.(".wb-panel")), true);
}

// the part next to `part` in the direction of an arrow key, by where they are on the screen
function beside(part, all, arrow) {
  const [dx, dy] = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[arrow];
  const centre = (each) => {
    const box = each.getBoundingClientRect();
    return [box.x + box.width / 2, box.y + box.height / 2];
  };
  const [x, y] = centre(part);
  let best, least = Infinity;
  for (const each of all) {
    const [u, v] = centre(each);
    const along = (u - x) * dx + (v - y) * dy;
    const far = along + 3 * Math.abs((u - x) * dy + (v - y) * dx);
    if (each !== part && along > 4 && far < least) [best, least] = [each, far];
  }
  return best;
}

// anywidget 0.11 gives a model 2 s to load and lets later messages fall where many panes on slow cores take longer: the
// pane would stand still. Such a model is told by a message of no meaning; it listens as any other, and asks what it missed
function revive(model) {
  let whole; // what `model` is a part of
  const take = (it) => (whole = it);
  model.on("change:wb_whole", take);
  model.set("wb_whole", Math.random());
  model.off("change:wb_whole", take);
  whole?._handle_comm_msg({ content: { data: { method: "custom", content: {} } } }).catch(() => {
    const listen = Object.getPrototypeOf(whole.constructor.prototype)._handle_comm_msg;
    whole.comm?.on_msg((message) => listen.call(whole, message));
    whole.comm?.send({ method: "request_state" }, {});
  });
}

const pane = {
  render({ model, el }) {
    // Tab reaches one part, arrows, Home and End the others; the focus survives that the html is drawn anew
    const parts = () => [...el.querySelectorAll("[data-pick]")];
    const focus = (part) => {
      parts().forEach((each) => each.setAttribute("tabindex", each === part ? "0" : "-1"));
      if (document.activeElement !== part) part.focus();
    };
    // what was asked for elsewhere on the page comes into sight and takes the focus, once for each value
    let revealed;
    const reveal = (part) => {
      if (!part || part.dataset.reveal === revealed) return;
      revealed = part.dataset.reveal;
      setTimeout(() => { part.scrollIntoView({ block: "start" }); part.focus({ preventScroll: true }); }, 100);
    };
    setTimeout(() => window.workbenchNames(el.closest(".wb-panel")), 500); // also for who reads on without a focus
    const sticky = () => [...el.querySelectorAll("[data-stick]")];
    const draw = () => {
      const held = el.contains(document.activeElement) ? document.activeElement.dataset?.pick : undefined;
      const left = new Set(sticky().filter((each) => each.scrollHeight - each.scrollTop - each.clientHeight > 8));
      const fresh = document.createElement("div");
      fresh.innerHTML = model.get("html");
      patch(el, fresh);
      sticky().filter((each) => !left.has(each)).forEach((each) => (each.scrollTop = each.scrollHeight));
      reveal(el.querySelector("[data-reveal]"));
      const again = held === undefined ? undefined : parts().find((part) => part.dataset.pick === held);
      if (again) focus(again);
      else if (held !== undefined) el.querySelector("[data-home]")?.focus(); // what held it is gone: Tab goes on from here
    };
    const pick = (part) => { if (part.ariaDisabled !== "true") model.send({ pick: part.dataset.pick }); };
    el.addEventListener("click", (event) => {
      const part = event.target.closest("[data-pick]");
      if (part) { focus(part); pick(part); }
    });
    el.addEventListener("keydown", (event) => {
      const part = event.target.closest("[data-pick]");
      if (!part || event.ctrlKey || event.metaKey || event.altKey) return;
      const all = parts(), at = all.indexOf(part), plane = part.closest("[data-arrows=plane]");
      const ends = { Home: all[0], End: all[all.length - 1] };
      const line = { ArrowRight: all[Math.min(at + 1, all.length - 1)], ArrowLeft: all[Math.max(at - 1, 0)] };
      const arrow = event.key.startsWith("Arrow");
      const to = arrow && plane ? beside(part, plane.querySelectorAll("[data-pick]"), event.key) : { ...line, ...ends }[event.key];
      if (event.key === "Enter" || event.key === " ") event.repeat || pick(part); // a key held down is one press
      else if (to) focus(to);
      else if (!(arrow && plane)) return;
      event.preventDefault();
      event.stopPropagation();
    });
    // plotly's widget measures itself before it is in the page: a pane with data-resize beside it has it look again
    const nudge = () => { if (el.querySelector("[data-resize]")) window.dispatchEvent(new Event("resize")); };
    const redraw = () => { draw(); [300, 1000, 3000].forEach((ms) => setTimeout(nudge, ms)); };
    // a button that is disabled under the focus hands it to one beside it, else Tab would begin anew far above
    const heirs = new MutationObserver((changes) => changes.forEach(({ target }) => {
      if (target.disabled && target === document.activeElement) target.parentElement.querySelector("button:enabled")?.focus();
    }));
    const keep = () => {
      const row = el.querySelector(".wb-head") && el.closest(".wb-work, .wb-system")?.querySelector(".wb-buttons, .wb-cardbuttons");
      if (row) heirs.observe(row, { subtree: true, attributeFilter: ["disabled"] });
    };
    const shown = new ResizeObserver(() => { keep(); setTimeout(nudge, 50); });
    shown.observe(el);
    model.on("change:html", redraw);
    draw();
    revive(model);
    return () => { model.off("change:html", redraw); shown.disconnect(); heirs.disconnect(); };
  },
};
