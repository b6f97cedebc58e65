# ruff: noqa: E501 - a sentence stands on one line, however long it is
"""Bulletin phrases in English, Finnish, Swedish and Estonian: per topic a title and groups of sentences to choose from."""

from __future__ import annotations

Phrases = dict[str, tuple[list[str], list[list[str]]]]

#: Eight names of where the wind blows from, north first, clockwise; and the three berths.
WINDS = {
    "en": [
        "the north",
        "the north-east",
        "the east",
        "the south-east",
        "the south",
        "the south-west",
        "the west",
        "the north-west",
    ],
    "fi": ["pohjoisesta", "koillisesta", "idästä", "kaakosta", "etelästä", "lounaasta", "lännestä", "luoteesta"],
    "sv": ["norr", "nordost", "öster", "sydost", "söder", "sydväst", "väster", "nordväst"],
    "et": ["põhjast", "kirdest", "idast", "kagust", "lõunast", "edelast", "läänest", "loodest"],
}
BERTHS = {
    "en": ["the west quay", "the north quay", "the east pier"],
    "fi": ["Länsilaituri", "Pohjoislaituri", "Itälaituri"],
    "sv": ["Västra kajen", "Norra kajen", "Östra piren"],
    "et": ["Läänekai", "Põhjakai", "Idamuul"],
}

PHRASES: dict[str, Phrases] = {
    "en": {
        "weather": (
            ["Weather at Tuulisalmi at {clock}", "Harbour weather, {clock}"],
            [
                [
                    "The wind comes from {wind} at {speed} metres a second.",
                    "Light to moderate wind from {wind}, {speed} m/s at the lighthouse.",
                ],
                [
                    "The air is at {temp} degrees and the pressure at {hpa} hectopascals.",
                    "Temperature {temp} °C, pressure {hpa} hPa and {trend}.",
                ],
                [
                    "Visibility over the roads is about {vis} kilometres.",
                    "From the gallery of the lighthouse one sees {vis} km to the south.",
                ],
                [
                    "Small craft should mind the gusts behind the silos.",
                    "No warning is in force for the archipelago.",
                    "Sailors bound for the outer islands are asked to reef early.",
                ],
            ],
        ),
        "water": (
            ["Water level, {clock}", "Sea level at the gauge"],
            [
                [
                    "At {clock} the gauge at the east pier read {level} centimetres above datum.",
                    "The water stands {level} cm over the chart datum.",
                ],
                [
                    "Slack water is expected within the hour.",
                    "The level changes by less than a hand's breadth until the next reading.",
                    "The swing of the basin takes just under two hours today.",
                ],
                [
                    "Skippers with more than six metres of draught call the pilot on channel 12.",
                    "The jetty of the small boats stays open.",
                ],
            ],
        ),
        "arrival": (
            ["{ship}: berthing", "Arrivals and departures, {ship}"],
            [
                [
                    "{ship} is expected at {berth} at {clock}.",
                    "The harbour office gives {berth} to {ship} from {clock}.",
                ],
                [
                    "The linesmen meet ten minutes earlier at the bollards.",
                    "Please keep the marked lane free for the mooring crew.",
                ],
                [
                    "Passengers wait behind the yellow line until the gangway is down.",
                    "Cargo papers are handed in at window two.",
                    "The crane drivers have been told.",
                ],
                ["Questions go to the duty officer.", "The harbour office answers until ten in the evening."],
            ],
        ),
        "warning": (
            ["Navigational warning {number}", "To all vessels: {number}"],
            [
                [
                    "Buoy {buoy} off the breakwater shows no light.",
                    "A drifting log, about four metres long, was seen near buoy {buoy}.",
                    "Divers work at {berth} until {clock}.",
                ],
                ["Vessels pass with care and keep a distance of one hundred metres.", "Reduce speed and give no wash."],
                [
                    "Report sightings to the coast station.",
                    "This warning ends by itself at midnight unless it is renewed.",
                ],
            ],
        ),
        "diary": (
            ["From the harbour master's diary", "A day at the harbour: {clock}"],
            [
                [
                    "The mist lifted before the first coffee was drunk.",
                    "At sunrise the water lay like poured glass, and only the trawler drew a line across it.",
                    "The gulls were up before us, as always.",
                ],
                [
                    "Aava came in so softly that the fenders hardly noticed.",
                    "The ferry blew once for the schoolchildren on the pier, who had waited for nothing else.",
                ],
                [
                    "Kaleva Trader took the last of the timber and a tonne of paint.",
                    "Between the containers it smelled of oranges, though no one had ordered any.",
                ],
                [
                    "After lunch a shower swept the quay better than we ever do.",
                    "For half an hour the rain hid the islands, then set them down again a shade greener.",
                ],
                [
                    "In the evening the lamp was lit, and the town answered with its windows.",
                    "Nothing was broken today, which is the finest sentence in this book.",
                ],
            ],
        ),
    },
    "fi": {
        "weather": (
            ["Tuulisalmen sää klo {clock}", "Sataman sää {clock}"],
            [
                ["Tuulee {wind} {speed} metriä sekunnissa.", "Majakalla mitattiin tuulta {wind} {speed} m/s."],
                [
                    "Ilman lämpötila on {temp} astetta ja ilmanpaine {hpa} hehtopascalia.",
                    "Lämpötila {temp} °C, paine {hpa} hPa.",
                ],
                ["Näkyvyys reidillä on noin {vis} kilometriä.", "Majakan parvekkeelta näkee etelään {vis} km."],
                [
                    "Pienveneilijät, varokaa puuskia siilojen takana.",
                    "Saaristossa ei ole voimassa varoituksia.",
                    "Ulkosaarille purjehtivia pyydetään reivaamaan ajoissa.",
                ],
            ],
        ),
        "water": (
            ["Vedenkorkeus klo {clock}", "Meriveden korkeus mareografilla"],
            [
                [
                    "Kello {clock} itälaiturin mittari näytti {level} senttimetriä vertailutason yläpuolella.",
                    "Vesi on {level} cm merikartan nollatason yläpuolella.",
                ],
                [
                    "Vedenpinta muuttuu ennen seuraavaa lukemaa alle kämmenen leveyden.",
                    "Altaan heilahdus kestää tänään vajaat kaksi tuntia.",
                ],
                [
                    "Yli kuuden metrin syväyksellä kulkevat kutsuvat luotsin kanavalla 12.",
                    "Venelaituri on avoinna tavalliseen tapaan.",
                ],
            ],
        ),
        "arrival": (
            ["{ship}: kiinnitys", "Saapuvat ja lähtevät: {ship}"],
            [
                [
                    "{ship} saapuu kello {clock}; paikka on {berth}.",
                    "Satamakonttori on varannut alukselle {ship} paikan: {berth}, klo {clock} alkaen.",
                ],
                [
                    "Köysimiehet kokoontuvat pollareille kymmenen minuuttia aikaisemmin.",
                    "Pitäkää merkitty kaista vapaana.",
                ],
                [
                    "Matkustajat odottavat keltaisen viivan takana, kunnes laskusilta on paikallaan.",
                    "Rahtikirjat jätetään luukulle kaksi.",
                    "Nosturinkuljettajille on ilmoitettu.",
                ],
                ["Lisätietoja antaa päivystäjä.", "Konttori vastaa kello 22:een asti."],
            ],
        ),
        "warning": (
            ["Merivaroitus {number}", "Kaikille aluksille: {number}"],
            [
                [
                    "Poiju {buoy} aallonmurtajan edustalla on pimeänä.",
                    "Poijun {buoy} lähellä on nähty noin neljän metrin mittainen tukki ajelehtimassa.",
                    "Sukeltajat työskentelevät satamassa ({berth}) kello {clock} asti.",
                ],
                [
                    "Alusten on ohitettava paikka varovasti sadan metrin etäisyydeltä.",
                    "Vähentäkää nopeutta ja välttäkää aallokkoa.",
                ],
                [
                    "Havainnoista pyydetään ilmoittamaan rannikkoasemalle.",
                    "Varoitus päättyy keskiyöllä, ellei sitä uusita.",
                ],
            ],
        ),
        "diary": (
            ["Satamakapteenin päiväkirjasta", "Päivä satamassa, {clock}"],
            [
                [
                    "Sumu hälveni ennen kuin ensimmäinen kahvikuppi oli juotu.",
                    "Auringon noustessa vesi oli kuin valettua lasia, ja vain troolari veti siihen viivan.",
                    "Lokit olivat hereillä ennen meitä, kuten aina.",
                ],
                [
                    "Aava tuli laituriin niin pehmeästi, etteivät lepuuttajat sitä tuskin huomanneet.",
                    "Lautta tervehti kerran koululaisia, jotka eivät muuta olleet odottaneetkaan.",
                ],
                [
                    "Kaleva Trader otti viimeiset sahatavarat ja tonnin maalia.",
                    "Konttien välissä tuoksui appelsiini, vaikka kukaan ei ollut niitä tilannut.",
                ],
                [
                    "Iltapäivällä sade pesi laiturin paremmin kuin me koskaan.",
                    "Puoli tuntia sade piilotti saaret ja laski ne sitten takaisin hiukan vihreämpinä.",
                ],
                [
                    "Illalla lamppu sytytettiin, ja kaupunki vastasi ikkunoillaan.",
                    "Mikään ei tänään mennyt rikki, ja se on tämän kirjan kaunein lause.",
                ],
            ],
        ),
    },
    "sv": {
        "weather": (
            ["Vädret i Vindsund klockan {clock}", "Hamnväder {clock}"],
            [
                [
                    "Vinden kommer från {wind} med {speed} meter i sekunden.",
                    "Vid fyren mättes {speed} m/s från {wind}.",
                ],
                [
                    "Luften håller {temp} grader och lufttrycket är {hpa} hektopascal.",
                    "Temperatur {temp} °C, tryck {hpa} hPa.",
                ],
                ["Sikten över redden är omkring {vis} kilometer.", "Från fyrens galleri ser man {vis} km söderut."],
                [
                    "Småbåtar bör akta sig för byarna bakom silorna.",
                    "Inga varningar gäller i skärgården.",
                    "Den som seglar mot de yttre öarna bör reva i tid.",
                ],
            ],
        ),
        "water": (
            ["Vattenstånd klockan {clock}", "Havsnivån vid mareografen"],
            [
                [
                    "Klockan {clock} visade mätaren vid Östra piren {level} centimeter över nollplanet.",
                    "Vattnet står {level} cm över sjökortets referensnivå.",
                ],
                [
                    "Nivån ändras mindre än en handsbredd till nästa avläsning.",
                    "Bassängens egensvängning tar i dag knappt två timmar.",
                ],
                [
                    "Fartyg med mer än sex meters djupgående anropar lotsen på kanal 12.",
                    "Småbåtsbryggan är öppen som vanligt.",
                ],
            ],
        ),
        "arrival": (
            ["{ship}: förtöjning", "Ankomster och avgångar: {ship}"],
            [
                [
                    "{ship} väntas klockan {clock}; kajplats: {berth}.",
                    "Hamnkontoret har reserverat {berth} för {ship} från klockan {clock}.",
                ],
                ["Trossförarna samlas vid pollarna tio minuter tidigare.", "Håll det markerade körfältet fritt."],
                [
                    "Passagerarna väntar bakom den gula linjen tills landgången är nere.",
                    "Fraktsedlarna lämnas in vid lucka två.",
                    "Kranförarna är underrättade.",
                ],
                ["Frågor besvaras av vakthavande.", "Kontoret svarar till klockan tio på kvällen."],
            ],
        ),
        "warning": (
            ["Navigationsvarning {number}", "Till alla fartyg: {number}"],
            [
                [
                    "Boj {buoy} utanför vågbrytaren är släckt.",
                    "En drivande stock, omkring fyra meter lång, har siktats nära boj {buoy}.",
                    "Dykare arbetar i hamnen ({berth}) till klockan {clock}.",
                ],
                ["Passera varsamt och på hundra meters avstånd.", "Sänk farten och undvik svall."],
                ["Iakttagelser meddelas till kustradiostationen.", "Varningen upphör vid midnatt om den inte förnyas."],
            ],
        ),
        "diary": (
            ["Ur hamnkaptenens dagbok", "En dag i hamnen, {clock}"],
            [
                [
                    "Dimman lättade innan det första kaffet var urdrucket.",
                    "I gryningen låg vattnet som gjutet glas, och bara trålaren drog ett streck över det.",
                    "Måsarna var uppe före oss, som alltid.",
                ],
                [
                    "Aava lade till så mjukt att fendrarna knappt märkte det.",
                    "Färjan hälsade en gång på skolbarnen, som inte hade väntat på något annat.",
                ],
                [
                    "Kaleva Trader tog det sista virket och ett ton färg.",
                    "Mellan containrarna doftade det apelsin, fast ingen hade beställt några.",
                ],
                [
                    "Efter lunch sopade en skur kajen bättre än vi någonsin gör.",
                    "En halvtimme gömde regnet öarna och ställde sedan tillbaka dem en aning grönare.",
                ],
                [
                    "På kvällen tändes lampan, och staden svarade med sina fönster.",
                    "Ingenting gick sönder i dag, och det är bokens vackraste mening.",
                ],
            ],
        ),
    },
    "et": {
        "weather": (
            ["Tuulisalmi ilm kell {clock}", "Sadama ilm {clock}"],
            [
                ["Tuul puhub {wind}, {speed} meetrit sekundis.", "Tuletorni juures mõõdeti tuult {wind} {speed} m/s."],
                [
                    "Õhutemperatuur on {temp} kraadi ja õhurõhk {hpa} hektopaskalit.",
                    "Temperatuur {temp} °C, rõhk {hpa} hPa.",
                ],
                ["Nähtavus reidil on umbes {vis} kilomeetrit.", "Tuletorni rõdult on lõunasse näha {vis} km."],
                [
                    "Väikelaevad hoidku silode taga puhangute eest.",
                    "Saarestikus hoiatusi ei kehti.",
                    "Välissaartele purjetajatel palutakse aegsasti rehvida.",
                ],
            ],
        ),
        "water": (
            ["Veetase kell {clock}", "Meretase mõõtejaamas"],
            [
                [
                    "Kell {clock} näitas idamuuli mõõdik {level} sentimeetrit üle nulltaseme.",
                    "Vesi seisab {level} cm üle merekaardi nulli.",
                ],
                [
                    "Järgmise lugemini muutub tase vähem kui käelaba laiuse võrra.",
                    "Basseini õõtsumine kestab täna veidi alla kahe tunni.",
                ],
                [
                    "Üle kuuemeetrise süvisega laevad kutsuvad lootsi kanalil 12.",
                    "Paadisild on avatud nagu tavaliselt.",
                ],
            ],
        ),
        "arrival": (
            ["{ship}: sildumine", "Saabujad ja lahkujad: {ship}"],
            [
                [
                    "{ship} saabub kell {clock}, koht: {berth}.",
                    "Sadamakontor on laevale {ship} kinni pannud koha: {berth}, alates kella {clock}.",
                ],
                ["Otsamehed kogunevad pollarite juurde kümme minutit varem.", "Palun hoidke märgitud rada vaba."],
                [
                    "Reisijad ootavad kollase joone taga, kuni maabumissild on all.",
                    "Veodokumendid antakse üle teises aknas.",
                    "Kraanajuhtidele on teatatud.",
                ],
                ["Küsimustele vastab korrapidaja.", "Kontor vastab õhtul kella kümneni."],
            ],
        ),
        "warning": (
            ["Navigatsioonihoiatus {number}", "Kõigile laevadele: {number}"],
            [
                [
                    "Poi {buoy} lainemurdja ees ei põle.",
                    "Poi {buoy} lähedal nähti triivivat palki, umbes neli meetrit pikka.",
                    "Tuukrid töötavad sadamas ({berth}) kella {clock}-ni.",
                ],
                ["Mööduda ettevaatlikult ja saja meetri kauguselt.", "Vähendage kiirust ja vältige lainetust."],
                ["Tähelepanekutest teatage rannaraadiojaama.", "Hoiatus lõpeb keskööl, kui seda ei pikendata."],
            ],
        ),
        "diary": (
            ["Sadamakapteni päevikust", "Päev sadamas, {clock}"],
            [
                [
                    "Udu hajus enne, kui esimene kohv oli joodud.",
                    "Päikesetõusul oli vesi nagu valatud klaas ja ainult traaler tõmbas sellele joone.",
                    "Kajakad olid enne meid üleval, nagu alati.",
                ],
                [
                    "Aava tuli kai äärde nii pehmelt, et vendrid vaevu märkasid.",
                    "Praam tervitas korra koolilapsi, kes polnudki midagi muud oodanud.",
                ],
                [
                    "Kaleva Trader võttis peale viimase saematerjali ja tonni värvi.",
                    "Konteinerite vahel lõhnas apelsinide järele, kuigi keegi polnud neid tellinud.",
                ],
                [
                    "Pärast lõunat pühkis vihmahoog kai puhtamaks, kui meie seda iial teeme.",
                    "Pool tundi peitis vihm saari ja pani need siis pisut rohelisemana tagasi.",
                ],
                [
                    "Õhtul süüdati lamp ja linn vastas oma akendega.",
                    "Täna ei läinud midagi katki ja see on selle raamatu kõige ilusam lause.",
                ],
            ],
        ),
    },
}
