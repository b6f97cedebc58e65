# ruff: noqa: E501 - the lines of the XML stand as they are written
"""Writes what the satellites saw: a SAFE folder of 10/20/60 m bands, a four-band GeoTIFF, and the terrain model."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import rasterio
from day.clock import iso, moment
from day.geo import lon_lat
from day.light import sun
from day.noise import Array, blur
from day.picture import Studio
from day.place import EAST0, EPSG, HALF, NORTH0
from day.satellite import BANDS, classes, digital, look, pooled
from rasterio.transform import from_origin

#: The pass over the harbour, one second before half past.
OVERPASS = 9 * 3600 + 50 * 60 + 29.0
OFFSET = 1000  # added to every number since processing baseline 04.00


def _transform(half: float, gsd: float) -> rasterio.Affine:
    return from_origin(EAST0 - half, NORTH0 + half, gsd, gsd)


def write_safe(folder: Path, studio: Studio) -> None:
    """A product in the layout of Sentinel-2 level 2A: lossless JPEG 2000 per band and resolution, SCL, TCI, cloud probability, metadata."""
    seed, scene = studio.place.seed, look(studio, studio.place.whole, OVERPASS, swath=True)
    stamp, tile = moment(OVERPASS).strftime("%Y%m%dT%H%M%S"), "T35VLG"
    product = folder / f"S2B_MSIL2A_{stamp}_N0511_R079_{tile}_20250614T121512.SAFE"
    granule = product / "GRANULE" / f"L2A_{tile}_A043210_{stamp}"
    files: list[str] = []

    def write(part: str, name: str, gsd: int, data: Array) -> None:
        path = granule / part / f"{name}.jp2"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = data if data.ndim == 3 else data[None]
        with rasterio.open(
            path,
            "w",
            driver="JP2OpenJPEG",
            width=data.shape[2],
            height=data.shape[1],
            count=data.shape[0],
            dtype=data.dtype,
            crs=f"EPSG:{EPSG}",
            transform=_transform(HALF, gsd),
            QUALITY=100,
            REVERSIBLE="YES",
            YCBCR420="NO",
            RESOLUTIONS=4,
        ) as out:
            out.write(data)
        files.append(path.relative_to(product).as_posix().removesuffix(".jp2"))

    ten = None
    for band, (name, _, gsd) in enumerate(BANDS):
        factor = gsd // 10
        reflectance = pooled(scene.reflectance[band], factor)
        missing = pooled(scene.missing.astype(np.float32), factor) > 0.5
        numbers = digital(reflectance, missing, seed, name, offset=OFFSET)
        write(f"IMG_DATA/R{gsd}m", f"{tile}_{stamp}_{name}_{gsd}m", gsd, numbers)
        if name in ("B02", "B03", "B04"):
            ten = numbers[None] if ten is None else np.concatenate([numbers[None], ten])
    assert ten is not None
    colour = np.where(ten == 0, 0, np.clip((ten.astype(np.float32) - OFFSET) / 10_000 * 2.9 * 255, 1, 255)).astype(
        np.uint8
    )
    write("IMG_DATA/R10m", f"{tile}_{stamp}_TCI_10m", 10, colour)
    write("IMG_DATA/R20m", f"{tile}_{stamp}_SCL_20m", 20, classes(scene, 2))
    write("QI_DATA", "MSK_CLDPRB_20m", 20, np.round(pooled(scene.cloud, 2) * 100).astype(np.uint8))
    cloudy = 100 * float(np.mean(scene.cloud[~scene.missing] > 0.4))
    (product / "MTD_MSIL2A.xml").write_text(
        _product_xml(product.name, stamp, files, cloudy, 100 * float(scene.missing.mean())), encoding="utf-8"
    )
    (granule / "MTD_TL.xml").write_text(_tile_xml(tile, cloudy), encoding="utf-8")


def _product_xml(name: str, stamp: str, files: list[str], cloudy: float, missing: float) -> str:
    half = HALF
    ring = " ".join(
        f"{lat:.6f} {lon:.6f}"
        for lon, lat in (
            lon_lat(x, y) for x, y in ((-half, half), (half, half), (half, -half), (-half, -half), (-half, half))
        )
    )
    listed = "\n".join(f"            <IMAGE_FILE>{escape(f)}</IMAGE_FILE>" for f in files if "IMG_DATA" in f)
    offsets = "\n".join(f'        <BOA_ADD_OFFSET band_id="{b}">-{OFFSET}</BOA_ADD_OFFSET>' for b in range(13))
    # Band numbers of the instrument: B10 is number 10, so what follows it here is one farther.
    spectral = "\n".join(
        f'        <Spectral_Information bandId="{i if i < 10 else i + 1}" physicalBand="{n.replace("B0", "B")}"><RESOLUTION>{gsd}</RESOLUTION>'
        f'<Wavelength><CENTRAL unit="nm">{nm}</CENTRAL></Wavelength></Spectral_Information>'
        for i, (n, nm, gsd) in enumerate(BANDS)
    )
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<n1:Level-2A_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-2A.xsd">
  <n1:General_Info>
    <Product_Info>
      <PRODUCT_START_TIME>{iso(OVERPASS).replace("Z", ".024Z")}</PRODUCT_START_TIME>
      <PRODUCT_STOP_TIME>{iso(OVERPASS).replace("Z", ".024Z")}</PRODUCT_STOP_TIME>
      <PRODUCT_URI>{name}</PRODUCT_URI>
      <PROCESSING_LEVEL>Level-2A</PROCESSING_LEVEL>
      <PRODUCT_TYPE>S2MSI2A</PRODUCT_TYPE>
      <PROCESSING_BASELINE>05.11</PROCESSING_BASELINE>
      <GENERATION_TIME>2025-06-14T12:15:12.000000Z</GENERATION_TIME>
      <Datatake datatakeIdentifier="GS2B_{stamp}_043210_N05.11"><SPACECRAFT_NAME>Sentinel-2B</SPACECRAFT_NAME></Datatake>
      <Product_Organisation>
        <Granule_List>
          <Granule imageFormat="JPEG2000">
{listed}
          </Granule>
        </Granule_List>
      </Product_Organisation>
    </Product_Info>
    <Product_Image_Characteristics>
      <Special_Values><SPECIAL_VALUE_TEXT>NODATA</SPECIAL_VALUE_TEXT><SPECIAL_VALUE_INDEX>0</SPECIAL_VALUE_INDEX></Special_Values>
      <Special_Values><SPECIAL_VALUE_TEXT>SATURATED</SPECIAL_VALUE_TEXT><SPECIAL_VALUE_INDEX>65535</SPECIAL_VALUE_INDEX></Special_Values>
      <QUANTIFICATION_VALUES_LIST><BOA_QUANTIFICATION_VALUE unit="none">10000</BOA_QUANTIFICATION_VALUE></QUANTIFICATION_VALUES_LIST>
      <BOA_ADD_OFFSET_VALUES_LIST>
{offsets}
      </BOA_ADD_OFFSET_VALUES_LIST>
      <Spectral_Information_List>
{spectral}
      </Spectral_Information_List>
    </Product_Image_Characteristics>
  </n1:General_Info>
  <n1:Geometric_Info>
    <Product_Footprint><Product_Footprint><Global_Footprint><EXT_POS_LIST>{ring}</EXT_POS_LIST></Global_Footprint></Product_Footprint></Product_Footprint>
  </n1:Geometric_Info>
  <n1:Quality_Indicators_Info>
    <Cloud_Coverage_Assessment>{cloudy:.6f}</Cloud_Coverage_Assessment>
    <Image_Content_QI><NODATA_PIXEL_PERCENTAGE>{missing:.6f}</NODATA_PIXEL_PERCENTAGE></Image_Content_QI>
  </n1:Quality_Indicators_Info>
</n1:Level-2A_User_Product>
"""


def _tile_xml(tile: str, cloudy: float) -> str:
    azimuth, elevation = sun(OVERPASS)
    sizes = "\n".join(
        f'      <Size resolution="{g}"><NROWS>{int(2 * HALF / g)}</NROWS><NCOLS>{int(2 * HALF / g)}</NCOLS></Size>'
        for g in (10, 20, 60)
    )
    places = "\n".join(
        f'      <Geoposition resolution="{g}"><ULX>{EAST0 - HALF:.0f}</ULX><ULY>{NORTH0 + HALF:.0f}</ULY><XDIM>{g}</XDIM><YDIM>-{g}</YDIM></Geoposition>'
        for g in (10, 20, 60)
    )
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<n1:Level-2A_Tile_ID xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/S2_PDI_Level-2A_Tile_Metadata.xsd">
  <n1:General_Info>
    <TILE_ID metadataLevel="Brief">S2B_OPER_MSI_L2A_TL_2BPS_20250614T121512_A043210_{tile}_N05.11</TILE_ID>
    <SENSING_TIME metadataLevel="Standard">{iso(OVERPASS).replace("Z", ".024Z")}</SENSING_TIME>
  </n1:General_Info>
  <n1:Geometric_Info>
    <Tile_Geocoding metadataLevel="Brief">
      <HORIZONTAL_CS_NAME>WGS84 / UTM zone 35N</HORIZONTAL_CS_NAME>
      <HORIZONTAL_CS_CODE>EPSG:{EPSG}</HORIZONTAL_CS_CODE>
{sizes}
{places}
    </Tile_Geocoding>
    <Tile_Angles metadataLevel="Standard">
      <Mean_Sun_Angle><ZENITH_ANGLE unit="deg">{90 - elevation:.6f}</ZENITH_ANGLE><AZIMUTH_ANGLE unit="deg">{azimuth:.6f}</AZIMUTH_ANGLE></Mean_Sun_Angle>
    </Tile_Angles>
  </n1:Geometric_Info>
  <n1:Quality_Indicators_Info metadataLevel="Standard">
    <Image_Content_QI><CLOUDY_PIXEL_PERCENTAGE>{cloudy:.6f}</CLOUDY_PIXEL_PERCENTAGE></Image_Content_QI>
  </n1:Quality_Indicators_Info>
</n1:Level-2A_Tile_ID>
"""


def write_four_bands(path: Path, studio: Studio, t: float) -> None:
    """The harbour at 4 m in blue, green, red and near infrared, as one tiled GeoTIFF with overviews."""
    grid = studio.place.core
    scene = look(studio, grid, t, swath=False)
    chosen = [1, 2, 3, 7]
    data = digital(scene.reflectance[chosen], scene.missing, studio.place.seed, "four", offset=0, noise=0.0008)
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=data.shape[2],
        height=data.shape[1],
        count=4,
        dtype="uint16",
        crs=f"EPSG:{EPSG}",
        nodata=0,
        transform=_transform(grid.half, 4),
        tiled=True,
        blockxsize=256,
        blockysize=256,
        compress="deflate",
        predictor=2,
        interleave="band",
    ) as out:
        out.write(data)
        out.update_tags(
            TIFFTAG_DATETIME=moment(t).strftime("%Y:%m:%d %H:%M:%S"), ACQUISITION_TIME=iso(t), SENSOR="Littoral-4"
        )
        for i, band in enumerate(chosen, 1):
            name, wavelength, _ = BANDS[band]
            out.set_band_description(i, {"B02": "blue", "B03": "green", "B04": "red", "B08": "nir"}[name])
            out.update_tags(i, wavelength_nm=str(wavelength))
        out.scales, out.offsets = [0.0001] * 4, [0.0] * 4
        out.build_overviews([2], rasterio.enums.Resampling.average)


def write_terrain(path: Path, studio: Studio) -> None:
    """Heights of the ground at 20 m, float32 metres, the sea at 0 and the unsurveyed south-east without data."""
    ground = pooled(np.maximum(studio.place.whole.ground, 0), 4)
    ground = blur(ground, 0.6)
    n = ground.shape[0]
    row, column = np.mgrid[:n, :n]
    ground = np.where((row + column) > 1.86 * n, -9999, np.round(ground, 2)).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=n,
        height=n,
        count=1,
        dtype="float32",
        crs=f"EPSG:{EPSG}",
        nodata=-9999,
        transform=_transform(HALF, 20),
        tiled=True,
        blockxsize=128,
        blockysize=128,
        compress="deflate",
        predictor=3,
    ) as out:
        out.write(ground[None])
        out.set_band_description(1, "elevation")
        out.update_tags(1, unit="m", vertical_datum="N2000")
        out.units = ["m"]
