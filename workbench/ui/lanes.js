// Things that are dragged from lane to lane by a pointer, or lifted with Enter and carried with the arrow keys. Python
// is told and draws the board anew; what was dropped lies in its lane at once.

const NEAR = 5; // pixels that a press may wander and still be a press
const EDGE = 26, STEP = 14; // so near to an end of the board it scrolls, by so much with each move

export default {
  render(context) {
    const { model, el } = context;
    const end = pane.render(context);
    let held, dragged = false; // held: {name, x, y, left, top, ghost, over} from press to release
    const named = (name) => el.querySelector(`[data-drag][data-pick="${CSS.escape(name)}"]`);
    const lifted = () => el.querySelector('[data-drag][aria-pressed="true"]');
    const lane = (node) => { const to = node?.closest("[data-drop]"); return to && el.contains(to) ? to : undefined; };

    const settle = (name, to) => {
      const things = to.querySelector(":scope > [data-things]"), thing = named(name);
      if (things && thing) {
        const after = [...things.children].find((each) => Number(each.dataset.order) > Number(thing.dataset.order));
        const focused = document.activeElement === thing;
        things.insertBefore(thing, after ?? null);
        if (focused) thing.focus({ preventScroll: true }); // a node that is put elsewhere loses it
      }
      model.send({ drag: name, drop: to.dataset.drop });
    };
    const release = () => {
      held?.over?.classList.remove("wb-over");
      held?.ghost?.remove();
      held = undefined;
    };
    const begin = () => {
      const thing = named(held.name);
      if (!thing) return release();
      const box = thing.getBoundingClientRect();
      Object.assign(held, { left: box.left, top: box.top, ghost: thing.cloneNode(true), board: thing.closest(".wb-board") });
      for (const name of ["data-pick", "data-drag", "id", "tabindex"]) held.ghost.removeAttribute(name);
      held.ghost.setAttribute("aria-hidden", "true");
      held.ghost.classList.add("wb-ghost");
      held.ghost.style.width = `${box.width}px`;
      document.body.append(held.ghost); // fixed places count from the window there, whatever the notebook does
      dragged = true;
    };
    const down = (event) => {
      dragged = false;
      const thing = event.target.closest("[data-drag]");
      if (!thing || event.button || !event.isPrimary) return;
      held = { name: thing.dataset.pick, x: event.clientX, y: event.clientY, pointer: event.pointerId };
    };
    const move = (event) => {
      if (!held || event.pointerId !== held.pointer) return;
      const [dx, dy] = [event.clientX - held.x, event.clientY - held.y];
      if (!held.ghost) {
        if (Math.hypot(dx, dy) < NEAR) return;
        el.setPointerCapture(held.pointer); // not before: a press that stays where it is belongs to the thing
        begin();
        if (!held) return;
      }
      held.ghost.style.transform = `translate(${held.left + dx}px, ${held.top + dy}px)`;
      const board = held.board.getBoundingClientRect();
      held.board.scrollTop += event.clientY > board.bottom - EDGE ? STEP : event.clientY < board.top + EDGE ? -STEP : 0;
      const over = lane(document.elementFromPoint(event.clientX, event.clientY));
      if (over !== held.over) held.over?.classList.remove("wb-over");
      over?.classList.add("wb-over");
      held.over = over;
    };
    const up = (event) => {
      if (!held || event.pointerId !== held.pointer) return;
      const { name, ghost } = held, to = lane(document.elementFromPoint(event.clientX, event.clientY));
      release();
      if (ghost && to && to !== lane(named(name))) settle(name, to);
      setTimeout(() => { dragged = false; }); // behind the click that ends a drag, where there is one
    };
    const click = (event) => {
      if (dragged) { dragged = false; event.stopImmediatePropagation(); return; } // the end of a drag is no press
      const thing = lifted(), to = lane(event.target);
      if (!to || event.target.closest("[data-pick]")) return;
      if (thing) settle(thing.dataset.pick, to);
      else model.send({ pick: to.dataset.drop }); // Python may know of one that is lifted, and not have said so yet
    };
    const key = (event) => {
      const thing = lifted();
      if (event.ctrlKey || event.metaKey || event.altKey || !thing || thing !== event.target.closest("[data-drag]")) return;
      if (!event.key.startsWith("Arrow") && event.key !== "Escape") return;
      model.send({ carry: thing.dataset.pick, key: event.key });
      event.preventDefault();
      event.stopImmediatePropagation();
    };
    const escape = (event) => {
      if (!held?.ghost || event.key !== "Escape") return;
      release();
      event.preventDefault();
      event.stopImmediatePropagation();
    };
    const heard = { pointerdown: down, pointermove: move, pointerup: up, pointercancel: release };
    for (const [name, call] of Object.entries(heard)) el.addEventListener(name, call);
    el.addEventListener("click", click, true);
    el.addEventListener("keydown", key, true);
    window.addEventListener("keydown", escape, true);
    return () => { release(); window.removeEventListener("keydown", escape, true); end(); };
  },
};
