# ruff: noqa: E501 - a sentence stands on one line, however long it is
"""Bulletin phrases in German, French and Spanish."""

from __future__ import annotations

from day.phrases_north import Phrases

WINDS = {
    "de": ["Norden", "Nordosten", "Osten", "Südosten", "Süden", "Südwesten", "Westen", "Nordwesten"],
    "fr": ["du nord", "du nord-est", "de l'est", "du sud-est", "du sud", "du sud-ouest", "de l'ouest", "du nord-ouest"],
    "es": [
        "del norte",
        "del nordeste",
        "del este",
        "del sudeste",
        "del sur",
        "del sudoeste",
        "del oeste",
        "del noroeste",
    ],
}
BERTHS = {
    "de": ["Westkai", "Nordkai", "Ostpier"],
    "fr": ["quai ouest", "quai nord", "jetée est"],
    "es": ["muelle oeste", "muelle norte", "espigón este"],
}

PHRASES: dict[str, Phrases] = {
    "de": {
        "weather": (
            ["Wetter in Tuulisalmi um {clock} Uhr", "Hafenwetter, {clock} Uhr"],
            [
                [
                    "Der Wind weht mit {speed} Metern in der Sekunde aus {wind}.",
                    "Am Leuchtturm wurden {speed} m/s aus {wind} gemessen.",
                ],
                [
                    "Die Luft hat {temp} Grad, der Luftdruck beträgt {hpa} Hektopascal.",
                    "Temperatur {temp} °C, Druck {hpa} hPa.",
                ],
                [
                    "Die Sicht über der Reede reicht etwa {vis} Kilometer weit.",
                    "Von der Galerie des Leuchtturms sieht man {vis} km nach Süden.",
                ],
                [
                    "Kleine Boote sollten auf die Böen hinter den Silos achten.",
                    "Für die Schären gilt keine Warnung.",
                    "Wer zu den äußeren Inseln segelt, reffe beizeiten.",
                ],
            ],
        ),
        "water": (
            ["Wasserstand um {clock} Uhr", "Der Pegel am Ostpier"],
            [
                [
                    "Um {clock} Uhr zeigte der Pegel {level} Zentimeter über Kartennull.",
                    "Das Wasser steht {level} cm über dem Nullpunkt der Seekarte.",
                ],
                [
                    "Bis zur nächsten Ablesung ändert sich der Stand um weniger als eine Handbreit.",
                    "Die Eigenschwingung des Beckens dauert heute knapp zwei Stunden.",
                ],
                [
                    "Schiffe mit mehr als sechs Metern Tiefgang rufen den Lotsen auf Kanal 12.",
                    "Der Bootssteg bleibt wie gewohnt geöffnet.",
                ],
            ],
        ),
        "arrival": (
            ["{ship}: Festmachen", "Ankunft und Abfahrt: {ship}"],
            [
                [
                    "{ship} wird um {clock} Uhr erwartet, Liegeplatz: {berth}.",
                    "Das Hafenamt hat für {ship} den Platz {berth} ab {clock} Uhr freigehalten.",
                ],
                [
                    "Die Festmacher treffen sich zehn Minuten vorher an den Pollern.",
                    "Bitte die markierte Spur freihalten.",
                ],
                [
                    "Fahrgäste warten hinter der gelben Linie, bis die Gangway liegt.",
                    "Frachtpapiere werden an Schalter zwei abgegeben.",
                    "Die Kranführer sind verständigt.",
                ],
                ["Auskunft gibt der Diensthabende.", "Das Hafenamt ist bis 22 Uhr zu erreichen."],
            ],
        ),
        "warning": (
            ["Nautische Warnnachricht {number}", "An alle Schiffe: {number}"],
            [
                [
                    "Die Tonne {buoy} vor dem Wellenbrecher ist erloschen.",
                    "Nahe der Tonne {buoy} treibt ein etwa vier Meter langer Baumstamm.",
                    "Taucher arbeiten bis {clock} Uhr im Hafen ({berth}).",
                ],
                [
                    "Schiffe passieren vorsichtig und mit hundert Metern Abstand.",
                    "Fahrt vermindern, Schwell vermeiden.",
                ],
                [
                    "Beobachtungen bitte der Küstenfunkstelle melden.",
                    "Die Warnung endet um Mitternacht, wenn sie nicht erneuert wird.",
                ],
            ],
        ),
        "diary": (
            ["Aus dem Tagebuch des Hafenmeisters", "Ein Tag im Hafen, {clock} Uhr"],
            [
                [
                    "Der Nebel hob sich, ehe der erste Kaffee getrunken war.",
                    "Bei Sonnenaufgang lag das Wasser wie gegossenes Glas, und nur der Trawler zog eine Linie hindurch.",
                    "Die Möwen waren vor uns wach, wie immer.",
                ],
                [
                    "Die Aava legte so sanft an, dass die Fender es kaum bemerkten.",
                    "Die Fähre grüßte einmal die Schulkinder, die auf nichts anderes gewartet hatten.",
                ],
                [
                    "Kaleva Trader nahm das letzte Schnittholz und eine Tonne Farbe mit.",
                    "Zwischen den Containern roch es nach Orangen, obwohl niemand welche bestellt hatte.",
                ],
                [
                    "Nach dem Mittag fegte ein Schauer den Kai gründlicher, als wir es je tun.",
                    "Eine halbe Stunde lang verbarg der Regen die Inseln und stellte sie dann etwas grüner zurück.",
                ],
                [
                    "Am Abend wurde die Lampe entzündet, und die Stadt antwortete mit ihren Fenstern.",
                    "Heute ging nichts entzwei, und das ist der schönste Satz in diesem Buch.",
                ],
            ],
        ),
    },
    "fr": {
        "weather": (
            ["Le temps à Tuulisalmi à {clock}", "Météo du port, {clock}"],
            [
                [
                    "Le vent souffle {wind} à {speed} mètres par seconde.",
                    "Au phare, on a mesuré un vent {wind} de {speed} m/s.",
                ],
                [
                    "L'air est à {temp} degrés et la pression à {hpa} hectopascals.",
                    "Température {temp} °C, pression {hpa} hPa.",
                ],
                [
                    "La visibilité sur la rade est d'environ {vis} kilomètres.",
                    "De la galerie du phare, on voit à {vis} km vers le sud.",
                ],
                [
                    "Les petits bateaux se méfieront des rafales derrière les silos.",
                    "Aucun avis n'est en vigueur dans l'archipel.",
                    "Ceux qui font voile vers les îles extérieures prendront un ris à temps.",
                ],
            ],
        ),
        "water": (
            ["Niveau de l'eau à {clock}", "Le marégraphe de la jetée"],
            [
                [
                    "À {clock}, le marégraphe indiquait {level} centimètres au-dessus du zéro.",
                    "L'eau se tient à {level} cm au-dessus du zéro des cartes.",
                ],
                [
                    "D'ici la prochaine lecture, le niveau variera de moins d'une largeur de main.",
                    "L'oscillation du bassin dure aujourd'hui un peu moins de deux heures.",
                ],
                [
                    "Les navires de plus de six mètres de tirant d'eau appellent le pilote sur le canal 12.",
                    "Le ponton des petits bateaux reste ouvert.",
                ],
            ],
        ),
        "arrival": (
            ["{ship} : accostage", "Arrivées et départs : {ship}"],
            [
                [
                    "{ship} est attendu à {clock} ; poste : {berth}.",
                    "La capitainerie réserve le poste « {berth} » à {ship} à partir de {clock}.",
                ],
                [
                    "Les lamaneurs se retrouvent aux bittes dix minutes plus tôt.",
                    "Prière de laisser libre la voie balisée.",
                ],
                [
                    "Les passagers attendent derrière la ligne jaune que la passerelle soit posée.",
                    "Les papiers de la cargaison se remettent au guichet deux.",
                    "Les grutiers sont prévenus.",
                ],
                ["L'officier de service répond aux questions.", "La capitainerie répond jusqu'à vingt-deux heures."],
            ],
        ),
        "warning": (
            ["Avis aux navigateurs {number}", "À tous les navires : {number}"],
            [
                [
                    "La bouée {buoy}, devant le brise-lames, est éteinte.",
                    "Un tronc d'environ quatre mètres dérive près de la bouée {buoy}.",
                    "Des plongeurs travaillent dans le port ({berth}) jusqu'à {clock}.",
                ],
                ["Passer avec prudence, à cent mètres de distance.", "Réduire la vitesse et éviter tout remous."],
                [
                    "Signaler toute observation à la station côtière.",
                    "Cet avis prend fin à minuit s'il n'est pas renouvelé.",
                ],
            ],
        ),
        "diary": (
            ["Du journal du maître de port", "Une journée au port, {clock}"],
            [
                [
                    "La brume s'est levée avant que le premier café ne soit bu.",
                    "Au lever du soleil, l'eau était comme du verre coulé, et seul le chalutier y traçait une ligne.",
                    "Les goélands étaient debout avant nous, comme toujours.",
                ],
                [
                    "L'Aava a accosté si doucement que les défenses l'ont à peine senti.",
                    "Le bac a salué d'un coup de sirène les écoliers, qui n'attendaient que cela.",
                ],
                [
                    "Le Kaleva Trader a pris le reste du bois et une tonne de peinture.",
                    "Entre les conteneurs, cela sentait l'orange, bien que personne n'en ait commandé.",
                ],
                [
                    "Après le déjeuner, une averse a balayé le quai mieux que nous ne le faisons jamais.",
                    "Pendant une demi-heure la pluie a caché les îles, puis les a reposées un peu plus vertes.",
                ],
                [
                    "Le soir, on a allumé la lampe, et la ville a répondu par ses fenêtres.",
                    "Rien ne s'est cassé aujourd'hui, et c'est la plus belle phrase de ce livre.",
                ],
            ],
        ),
    },
    "es": {
        "weather": (
            ["El tiempo en Tuulisalmi a las {clock}", "Meteorología del puerto, {clock}"],
            [
                [
                    "Sopla viento {wind} a {speed} metros por segundo.",
                    "En el faro se midieron {speed} m/s de viento {wind}.",
                ],
                [
                    "El aire está a {temp} grados y la presión es de {hpa} hectopascales.",
                    "Temperatura {temp} °C, presión {hpa} hPa.",
                ],
                [
                    "La visibilidad en la rada es de unos {vis} kilómetros.",
                    "Desde la galería del faro se ven {vis} km hacia el sur.",
                ],
                [
                    "Las embarcaciones pequeñas tengan cuidado con las rachas detrás de los silos.",
                    "No hay avisos en vigor para el archipiélago.",
                    "A quienes naveguen hacia las islas de fuera se les ruega tomar rizos a tiempo.",
                ],
            ],
        ),
        "water": (
            ["Nivel del agua a las {clock}", "El mareógrafo del espigón"],
            [
                [
                    "A las {clock} el mareógrafo marcaba {level} centímetros sobre el cero.",
                    "El agua está {level} cm por encima del cero de la carta.",
                ],
                [
                    "Hasta la próxima lectura el nivel cambiará menos de un palmo.",
                    "La oscilación de la dársena dura hoy algo menos de dos horas.",
                ],
                [
                    "Los buques de más de seis metros de calado llaman al práctico por el canal 12.",
                    "El pantalán de las barcas sigue abierto.",
                ],
            ],
        ),
        "arrival": (
            ["{ship}: atraque", "Llegadas y salidas: {ship}"],
            [
                [
                    "Se espera a {ship} a las {clock}; atraque: {berth}.",
                    "La capitanía reserva el {berth} para {ship} desde las {clock}.",
                ],
                [
                    "Los amarradores se reúnen junto a los bolardos diez minutos antes.",
                    "Se ruega dejar libre el carril señalado.",
                ],
                [
                    "Los pasajeros esperan detrás de la línea amarilla hasta que baje la pasarela.",
                    "Los papeles de la carga se entregan en la ventanilla dos.",
                    "Los gruistas están avisados.",
                ],
                [
                    "Las preguntas las atiende el oficial de guardia.",
                    "La capitanía contesta hasta las diez de la noche.",
                ],
            ],
        ),
        "warning": (
            ["Aviso a los navegantes {number}", "A todos los buques: {number}"],
            [
                [
                    "La boya {buoy}, frente al rompeolas, está apagada.",
                    "Cerca de la boya {buoy} se ha visto un tronco de unos cuatro metros a la deriva.",
                    "Hay buzos trabajando en el puerto ({berth}) hasta las {clock}.",
                ],
                ["Pasen con precaución y a cien metros de distancia.", "Reduzcan la velocidad y no levanten oleaje."],
                [
                    "Comuniquen cualquier avistamiento a la estación costera.",
                    "Este aviso termina a medianoche si no se renueva.",
                ],
            ],
        ),
        "diary": (
            ["Del diario del capitán de puerto", "Un día en el puerto, {clock}"],
            [
                [
                    "La niebla se levantó antes de que se tomara el primer café.",
                    "Al salir el sol el agua parecía vidrio fundido, y solo el arrastrero trazaba una línea en ella.",
                    "Las gaviotas estaban despiertas antes que nosotros, como siempre.",
                ],
                [
                    "El Aava atracó con tanta suavidad que las defensas apenas lo notaron.",
                    "El transbordador saludó una vez a los escolares, que no esperaban otra cosa.",
                ],
                [
                    "El Kaleva Trader se llevó la última madera y una tonelada de pintura.",
                    "Entre los contenedores olía a naranjas, aunque nadie las había pedido.",
                ],
                [
                    "Después de comer, un chubasco barrió el muelle mejor de lo que lo hacemos nunca.",
                    "Durante media hora la lluvia escondió las islas, y luego las devolvió un poco más verdes.",
                ],
                [
                    "Al anochecer se encendió la lámpara y el pueblo respondió con sus ventanas.",
                    "Hoy no se rompió nada, y es la frase más hermosa de este libro.",
                ],
            ],
        ),
    },
}
