"""Bulletin phrases in Polish, Ukrainian and Greek."""

from __future__ import annotations

from day.phrases_north import Phrases

WINDS = {
    "pl": [
        "z północy",
        "z północnego wschodu",
        "ze wschodu",
        "z południowego wschodu",
        "z południa",
        "z południowego zachodu",
        "z zachodu",
        "z północnego zachodu",
    ],
    "uk": [
        "з півночі",
        "з північного сходу",
        "зі сходу",
        "з південного сходу",
        "з півдня",
        "з південного заходу",
        "із заходу",
        "з північного заходу",
    ],
    "el": [
        "βόρειος",
        "βορειοανατολικός",
        "ανατολικός",
        "νοτιοανατολικός",
        "νότιος",
        "νοτιοδυτικός",
        "δυτικός",
        "βορειοδυτικός",
    ],
}
BERTHS = {
    "pl": ["Nabrzeże Zachodnie", "Nabrzeże Północne", "Pirs Wschodni"],
    "uk": ["Західний причал", "Північний причал", "Східний пірс"],
    "el": ["Δυτική προβλήτα", "Βόρεια προβλήτα", "Ανατολικός μόλος"],
}

PHRASES: dict[str, Phrases] = {
    "pl": {
        "weather": (
            ["Pogoda w Tuulisalmi o godzinie {clock}", "Pogoda w porcie, {clock}"],
            [
                [
                    "Wiatr wieje {wind} z prędkością {speed} metra na sekundę.",
                    "Przy latarni zmierzono wiatr {wind}, {speed} m/s.",
                ],
                [
                    "Temperatura powietrza wynosi {temp} stopnia, a ciśnienie {hpa} hektopaskala.",
                    "Temperatura {temp} °C, ciśnienie {hpa} hPa.",
                ],
                [
                    "Widzialność na redzie wynosi około {vis} kilometrów.",
                    "Z galerii latarni widać na południe na {vis} km.",
                ],
                [
                    "Małe łodzie niech uważają na porywy za silosami.",
                    "Na archipelagu nie obowiązują żadne ostrzeżenia.",
                    "Płynących ku zewnętrznym wyspom prosimy o wczesne refowanie żagli.",
                ],
            ],
        ),
        "water": (
            ["Poziom wody o {clock}", "Mareograf na Pirsie Wschodnim"],
            [
                [
                    "O godzinie {clock} mareograf wskazywał {level} centymetrów ponad zero.",
                    "Woda stoi {level} cm ponad zerem mapy.",
                ],
                [
                    "Do następnego odczytu poziom zmieni się o mniej niż szerokość dłoni.",
                    "Wahanie basenu trwa dziś niespełna dwie godziny.",
                ],
                [
                    "Statki o zanurzeniu ponad sześć metrów wzywają pilota na kanale 12.",
                    "Pomost dla małych łodzi pozostaje otwarty.",
                ],
            ],
        ),
        "arrival": (
            ["{ship}: cumowanie", "Przybycia i odejścia: {ship}"],
            [
                [
                    "{ship} jest oczekiwany o {clock}; miejsce: {berth}.",
                    "Kapitanat zarezerwował dla statku {ship} miejsce: {berth}, od godziny {clock}.",
                ],
                [
                    "Cumownicy zbierają się przy polerach dziesięć minut wcześniej.",
                    "Prosimy zostawić wolny oznaczony pas.",
                ],
                [
                    "Pasażerowie czekają za żółtą linią, aż trap zostanie opuszczony.",
                    "Dokumenty ładunku przyjmuje okienko drugie.",
                    "Operatorzy dźwigów są powiadomieni.",
                ],
                ["Na pytania odpowiada oficer dyżurny.", "Kapitanat odbiera telefony do dwudziestej drugiej."],
            ],
        ),
        "warning": (
            ["Ostrzeżenie nawigacyjne {number}", "Do wszystkich statków: {number}"],
            [
                [
                    "Boja {buoy} przed falochronem nie świeci.",
                    "W pobliżu boi {buoy} widziano dryfującą kłodę długości około czterech metrów.",
                    "Nurkowie pracują w porcie ({berth}) do godziny {clock}.",
                ],
                [
                    "Należy mijać ostrożnie, w odległości stu metrów.",
                    "Prosimy zmniejszyć prędkość i nie wzbudzać fali.",
                ],
                [
                    "Obserwacje prosimy zgłaszać stacji brzegowej.",
                    "Ostrzeżenie wygasa o północy, jeśli nie zostanie odnowione.",
                ],
            ],
        ),
        "diary": (
            ["Z dziennika kapitana portu", "Dzień w porcie, {clock}"],
            [
                [
                    "Mgła podniosła się, zanim wypito pierwszą kawę.",
                    "O wschodzie słońca woda leżała jak odlane szkło i tylko trawler kreślił po niej linię.",
                    "Mewy wstały przed nami, jak zawsze.",
                ],
                [
                    "Aava dobiła tak miękko, że odbijacze ledwie to zauważyły.",
                    "Prom pozdrowił raz dzieci ze szkoły, które na nic innego nie czekały.",
                ],
                [
                    "Kaleva Trader zabrał resztę tarcicy i tonę farby.",
                    "Między kontenerami pachniało pomarańczami, choć nikt ich nie zamawiał.",
                ],
                [
                    "Po obiedzie deszcz zamiótł nabrzeże lepiej, niż my to kiedykolwiek robimy.",
                    "Przez pół godziny deszcz chował wyspy, a potem odstawił je odrobinę zieleńsze.",
                ],
                [
                    "Wieczorem zapalono lampę, a miasto odpowiedziało oknami.",
                    "Nic się dziś nie zepsuło i to jest najpiękniejsze zdanie w tej księdze.",
                ],
            ],
        ),
    },
    "uk": {
        "weather": (
            ["Погода в Туулісалмі о {clock}", "Погода в порту, {clock}"],
            [
                [
                    "Вітер дме {wind} зі швидкістю {speed} метра на секунду.",
                    "Біля маяка виміряли вітер {wind}, {speed} м/с.",
                ],
                [
                    "Температура повітря {temp} градуса, тиск {hpa} гектопаскаля.",
                    "Температура {temp} °C, тиск {hpa} гПа.",
                ],
                ["Видимість на рейді близько {vis} кілометрів.", "З галереї маяка видно на південь на {vis} км."],
                [
                    "Малим човнам слід стерегтися поривів за силосами.",
                    "В архіпелазі попереджень немає.",
                    "Хто йде під вітрилами до зовнішніх островів, нехай рифиться заздалегідь.",
                ],
            ],
        ),
        "water": (
            ["Рівень води о {clock}", "Мареограф на Східному пірсі"],
            [
                [
                    "О {clock} мареограф показував {level} сантиметрів над нулем.",
                    "Вода стоїть на {level} см вище нуля карти.",
                ],
                [
                    "До наступного виміру рівень зміниться менш ніж на долоню.",
                    "Коливання басейну триває сьогодні трохи менше двох годин.",
                ],
                [
                    "Судна з осадкою понад шість метрів викликають лоцмана на каналі 12.",
                    "Причал малих човнів відкритий.",
                ],
            ],
        ),
        "arrival": (
            ["{ship}: швартування", "Прибуття та відхід: {ship}"],
            [
                [
                    "{ship} очікується о {clock}; місце: {berth}.",
                    "Капітанія відвела для судна {ship} місце: {berth}, від {clock}.",
                ],
                [
                    "Швартувальники збираються біля кнехтів на десять хвилин раніше.",
                    "Просимо залишити вільною позначену смугу.",
                ],
                [
                    "Пасажири чекають за жовтою лінією, доки не опустять трап.",
                    "Вантажні папери приймають у другому вікні.",
                    "Кранівників попереджено.",
                ],
                ["На запитання відповідає черговий.", "Капітанія відповідає до десятої вечора."],
            ],
        ),
        "warning": (
            ["Навігаційне попередження {number}", "Усім суднам: {number}"],
            [
                [
                    "Буй {buoy} перед хвилерізом не світить.",
                    "Поблизу буя {buoy} помічено колоду завдовжки близько чотирьох метрів, що дрейфує.",
                    "Водолази працюють у порту ({berth}) до {clock}.",
                ],
                ["Проходити обережно, за сто метрів.", "Зменште хід і не здіймайте хвилі."],
                [
                    "Про спостереження повідомляйте берегову станцію.",
                    "Попередження втрачає чинність опівночі, якщо його не поновлять.",
                ],
            ],
        ),
        "diary": (
            ["Зі щоденника капітана порту", "День у порту, {clock}"],
            [
                [
                    "Туман піднявся раніше, ніж випили першу каву.",
                    "На світанку вода лежала, мов вилите скло, і тільки траулер креслив по ній лінію.",
                    "Чайки прокинулися раніше за нас, як завжди.",
                ],
                [
                    "«Аава» пристала так м'яко, що кранці ледве це помітили.",
                    "Пором один раз привітав школярів, які нічого іншого й не чекали.",
                ],
                [
                    "«Калева Трейдер» забрав решту пиломатеріалів і тонну фарби.",
                    "Між контейнерами пахло апельсинами, хоча ніхто їх не замовляв.",
                ],
                [
                    "Після обіду злива підмела причал краще, ніж ми це робимо будь-коли.",
                    "Пів години дощ ховав острови, а тоді повернув їх трохи зеленішими.",
                ],
                [
                    "Увечері засвітили лампу, і місто відповіло своїми вікнами.",
                    "Сьогодні нічого не зламалося, і це найкраще речення в цій книзі.",
                ],
            ],
        ),
    },
    "el": {
        "weather": (
            ["Ο καιρός στο Τουούλισαλμι στις {clock}", "Καιρός του λιμανιού, {clock}"],
            [
                [
                    "Πνέει {wind} άνεμος με {speed} μέτρα το δευτερόλεπτο.",
                    "Στον φάρο μετρήθηκε άνεμος {wind}, {speed} m/s.",
                ],
                [
                    "Ο αέρας έχει {temp} βαθμούς και η πίεση είναι {hpa} εκτοπασκάλ.",
                    "Θερμοκρασία {temp} °C, πίεση {hpa} hPa.",
                ],
                [
                    "Η ορατότητα στο αγκυροβόλιο είναι περίπου {vis} χιλιόμετρα.",
                    "Από τον εξώστη του φάρου φαίνεται ο ορίζοντας {vis} km προς τον νότο.",
                ],
                [
                    "Τα μικρά σκάφη να προσέχουν τις ριπές πίσω από τα σιλό.",
                    "Δεν ισχύει καμία προειδοποίηση για το αρχιπέλαγος.",
                    "Όσοι πλέουν προς τα έξω νησιά ας μουδάρουν εγκαίρως.",
                ],
            ],
        ),
        "water": (
            ["Στάθμη του νερού στις {clock}", "Ο παλιρροιογράφος του μόλου"],
            [
                [
                    "Στις {clock} ο παλιρροιογράφος έδειχνε {level} εκατοστά πάνω από το μηδέν.",
                    "Το νερό βρίσκεται {level} cm πάνω από το μηδέν του χάρτη.",
                ],
                [
                    "Ως την επόμενη ανάγνωση η στάθμη θα αλλάξει λιγότερο από μια παλάμη.",
                    "Η ταλάντωση της λεκάνης κρατά σήμερα λίγο λιγότερο από δύο ώρες.",
                ],
                [
                    "Πλοία με βύθισμα πάνω από έξι μέτρα καλούν τον πλοηγό στο κανάλι 12.",
                    "Η εξέδρα των μικρών σκαφών μένει ανοιχτή.",
                ],
            ],
        ),
        "arrival": (
            ["{ship}: πρόσδεση", "Αφίξεις και αναχωρήσεις: {ship}"],
            [
                [
                    "Το {ship} αναμένεται στις {clock}· θέση: {berth}.",
                    "Το λιμεναρχείο κρατά για το {ship} τη θέση «{berth}» από τις {clock}.",
                ],
                [
                    "Οι καβοδέτες συγκεντρώνονται στις δέστρες δέκα λεπτά νωρίτερα.",
                    "Παρακαλούμε αφήστε ελεύθερη τη σημειωμένη λωρίδα.",
                ],
                [
                    "Οι επιβάτες περιμένουν πίσω από την κίτρινη γραμμή ώσπου να κατέβει η σκάλα.",
                    "Τα έγγραφα του φορτίου παραδίδονται στη δεύτερη θυρίδα.",
                    "Οι χειριστές των γερανών έχουν ειδοποιηθεί.",
                ],
                [
                    "Για ερωτήσεις απευθυνθείτε στον αξιωματικό υπηρεσίας.",
                    "Το λιμεναρχείο απαντά ως τις δέκα το βράδυ.",
                ],
            ],
        ),
        "warning": (
            ["Αγγελία προς ναυτιλλομένους {number}", "Προς όλα τα πλοία: {number}"],
            [
                [
                    "Ο σημαντήρας {buoy} μπροστά στον κυματοθραύστη είναι σβηστός.",
                    "Κοντά στον σημαντήρα {buoy} παρασύρεται κορμός μήκους περίπου τεσσάρων μέτρων.",
                    "Δύτες εργάζονται στο λιμάνι ({berth}) ως τις {clock}.",
                ],
                ["Περάστε με προσοχή και σε απόσταση εκατό μέτρων.", "Μειώστε ταχύτητα και αποφύγετε τον κυματισμό."],
                ["Αναφέρετε ό,τι δείτε στον παράκτιο σταθμό.", "Η αγγελία λήγει τα μεσάνυχτα, αν δεν ανανεωθεί."],
            ],
        ),
        "diary": (
            ["Από το ημερολόγιο του λιμενάρχη", "Μια μέρα στο λιμάνι, {clock}"],
            [
                [
                    "Η ομίχλη σηκώθηκε πριν πιούμε τον πρώτο καφέ.",
                    "Με την ανατολή το νερό ήταν σαν χυτό γυαλί, και μόνο η μηχανότρατα τραβούσε πάνω του μια γραμμή.",
                    "Οι γλάροι ξύπνησαν πριν από εμάς, όπως πάντα.",
                ],
                [
                    "Το Aava έδεσε τόσο απαλά, που οι προσκρουστήρες μόλις το κατάλαβαν.",
                    "Το πορθμείο χαιρέτησε μια φορά τα παιδιά του σχολείου, που δεν περίμεναν τίποτε άλλο.",
                ],
                [
                    "Το Kaleva Trader πήρε την τελευταία ξυλεία και έναν τόνο μπογιά.",
                    "Ανάμεσα στα κοντέινερ μύριζε πορτοκάλι, αν και κανείς δεν είχε παραγγείλει.",
                ],
                [
                    "Μετά το μεσημέρι μια μπόρα σκούπισε την προβλήτα καλύτερα από ό,τι εμείς ποτέ.",
                    "Για μισή ώρα η βροχή έκρυψε τα νησιά και ύστερα τα άφησε πάλι, λίγο πιο πράσινα.",
                ],
                [
                    "Το βράδυ άναψε η λάμπα, και η πόλη απάντησε με τα παράθυρά της.",
                    "Σήμερα δεν χάλασε τίποτα, και αυτή είναι η ωραιότερη φράση του βιβλίου.",
                ],
            ],
        ),
    },
}
