// Keeps the page up to date: takes rendered fragments from the server and changes only what differs, so that focus,
// selection and open details stay. Also sends commands. Without this file the page reads the same, once.
"use strict";
(() => {
  const KEPT = { DETAILS: ["open"] }; // attributes that belong to the reader, not to the server

  const morph = (have, want) => {
    if (have.nodeType !== want.nodeType || have.nodeName !== want.nodeName || (have.id || "") !== (want.id || "")) {
      have.replaceWith(want);
      return;
    }
    if (have.nodeType !== Node.ELEMENT_NODE) {
      if (have.nodeValue !== want.nodeValue) have.nodeValue = want.nodeValue;
      return;
    }
    const kept = KEPT[have.nodeName] || [];
    for (const { name } of [...have.attributes]) if (!want.hasAttribute(name) && !kept.includes(name)) have.removeAttribute(name);
    for (const { name, value } of [...want.attributes]) if (have.getAttribute(name) !== value) have.setAttribute(name, value);
    morphChildren(have, want);
  };

  const morphChildren = (have, want) => {
    const wanted = [...want.childNodes];
    const had = [...have.childNodes];
    wanted.forEach((node, i) => (i < had.length ? morph(had[i], node) : have.append(node)));
    had.slice(wanted.length).forEach((node) => node.remove());
  };

  const fill = (id, html) => {
    const place = document.getElementById(id);
    if (!place) return;
    const made = new DOMParser().parseFromString(`<div>${html}</div>`, "text/html").body.firstChild;
    showActions(made);
    morphChildren(place, made);
  };

  const showActions = (root) => root.querySelectorAll("[data-actions]").forEach((node) => (node.hidden = false));

  const say = (text, bad) => {
    const place = document.getElementById("answer");
    place.textContent = text;
    place.classList.toggle("bad", Boolean(bad));
    place.hidden = false;
    clearTimeout(say.timer);
    say.timer = setTimeout(() => (place.hidden = true), bad ? 12000 : 4000);
  };

  const act = async (button) => {
    if (button.dataset.confirm && !window.confirm(button.dataset.confirm)) return;
    button.disabled = true;
    try {
      const reply = await fetch(button.dataset.action, { method: button.dataset.method, headers: { "X-Headrace": "1" } });
      if (reply.ok) say(`${button.textContent}: done.`);
      else say((await reply.json()).detail || `The server answered ${reply.status}.`, true);
    } catch (error) {
      say(`The service cannot be reached: ${error.message}`, true);
    } finally {
      button.disabled = false;
    }
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-action]");
    if (button) act(button);
  });

  let source = null;
  let held = false;
  let lost = null;

  const follow = () => {
    const url = document.body.dataset.live;
    if (!url || held || source || document.hidden) return;
    source = new EventSource(url);
    source.addEventListener("fragment", (event) => {
      const { id, html } = JSON.parse(event.data);
      fill(id, html);
    });
    source.addEventListener("open", () => {
      clearTimeout(lost);
      document.body.classList.remove("lost");
    });
    source.addEventListener("error", () => {
      clearTimeout(lost);
      lost = setTimeout(() => document.body.classList.add("lost"), 4000);
      if (source.readyState === EventSource.CLOSED) {
        leave();
        setTimeout(follow, 5000);
      }
    });
  };

  const leave = () => {
    if (source) source.close();
    source = null;
  };

  document.addEventListener("visibilitychange", () => (document.hidden ? leave() : follow()));
  addEventListener("pagehide", leave);

  const hold = document.getElementById("hold");
  if (hold && document.body.dataset.live) {
    hold.hidden = false;
    hold.addEventListener("click", () => {
      held = !held;
      hold.textContent = held ? "Live: off" : "Live: on";
      if (held) leave();
      else follow();
    });
  }
  showActions(document);
  follow();
})();
